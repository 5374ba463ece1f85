# Builds zlib's library, and says what make took. Only make is counted: what ./configure would find out is given.
set -e
cp -r /work/zlib /tmp/zlib
cd /tmp/zlib
gcc -O1 -static -o /tmp/kernbench /work/kernbench.c
/tmp/kernbench make -f Makefile.in -s -j2 CFLAGS='-O2 -D_LARGEFILE64_SOURCE=1 -DHAVE_HIDDEN -DHAVE_UNISTD_H' libz.a
md5sum libz.a
