# Builds zlib as people do, and says what its make took.
set -e
cp -r /work/zlib /tmp/zlib
cd /tmp/zlib
gcc -O1 -static -o /tmp/kernbench /work/kernbench.c
./configure > configured 2>&1 || { cat configured; exit 1; }
/tmp/kernbench make -s -j2
md5sum libz.a libz.so.*.*
./example > tested
./exampleshared > tested
