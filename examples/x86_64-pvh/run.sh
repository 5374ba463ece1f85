#!/bin/sh
# Boots the kernel given, in QEMU on the CPU model in $CPU: `max` has PKS, `Broadwell` and `EPYC` have SMAP alone. Status 0: every attack went as it should.
qemu-system-x86_64 -kernel "$1" -cpu "${CPU:-max}" -m 128M -accel tcg -display none -serial stdio -monitor none \
    -nodefaults -no-user-config -no-reboot -device isa-debug-exit,iobase=0xf4,iosize=0x04
# The device's status is twice what the kernel writes, and one: 16 is success.
[ $? -eq 33 ]
