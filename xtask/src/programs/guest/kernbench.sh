# Builds a library as people do, and says what that took. What ./configure would find out is said, so that only make is measured.
set -e
cp -r /work/zlib /tmp/zlib
cd /tmp/zlib
gcc -O1 -static -o /tmp/kernbench /work/kernbench.c
/tmp/kernbench make -f Makefile.in -s -j2 CFLAGS='-O2 -D_LARGEFILE64_SOURCE=1 -DHAVE_HIDDEN -DHAVE_UNISTD_H' libz.a
cksum libz.a
