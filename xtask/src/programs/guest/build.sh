# Builds zlib as people do, and has its own test run.
set -e
cp -r /work/zlib /tmp/zlib
cd /tmp/zlib
./configure --static > configured 2>&1 || { cat configured; exit 1; }
make -j2 libz.a minigzip example
./example
echo through and back | ./minigzip | ./minigzip -d
