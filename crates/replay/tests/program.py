"""What the tests of replay record: programs that fork, thread and exec, and stop where their memory is to be looked at."""

import mmap
import os
import signal
import subprocess
import sys
import threading

FOLDER = sys.argv[2]


def stop():
    """Says that this process is about to stop, and stops. It is killed there."""
    open(os.path.join(FOLDER, str(os.getpid())), "w").close()
    os.kill(os.getpid(), signal.SIGSTOP)


def touch(memory, pages):
    for page in pages:
        memory[page * 4096] = page % 251


def forks():
    shared = mmap.mmap(-1, 64 * 4096)
    private = mmap.mmap(-1, 900 * 4096, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    wiped = mmap.mmap(-1, 8 * 4096, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    touch(shared, range(0, 64, 3))
    touch(private, range(0, 900, 2))
    touch(wiped, range(8))
    wiped.madvise(18)  # MADV_WIPEONFORK
    read = sum(private[page * 4096] for page in range(1, 300, 4))
    for number in range(8):
        if os.fork() == 0:
            touch(private, range(number, 900, 5))
            if number % 3 == 0 and os.fork() == 0:
                touch(private, range(0, 900, 7))
                private.resize(1300 * 4096)
                touch(private, range(1200, 1210))
                stop()
            private.madvise(mmap.MADV_DONTNEED, 100 * 4096, 50 * 4096)
            touch(shared, range(number, 64, 5))
            kept = bytearray(number * 100_000)
            stop()
        touch(private, range(number, 900, 11))
    while True:
        try:
            os.wait()
        except ChildProcessError:
            break
    stop()


def threads():
    barrier = threading.Barrier(9)

    def work(number):
        kept = [bytearray(20_000 + number * 1000) for _ in range(50)]
        for size in range(1, 60):
            dropped = bytearray(size * 9000)
        barrier.wait()
        threading.Event().wait()

    for number in range(8):
        threading.Thread(target=work, args=(number,), daemon=True).start()
    barrier.wait()
    if os.fork() == 0:
        stop()
    os.wait()
    stop()


def execs():
    for _ in range(15):
        subprocess.run(["/bin/true"], check=True)
        subprocess.run(["/bin/sh", "-c", "/bin/true; /bin/true"], check=True)
    os.execv(sys.executable, [sys.executable, sys.argv[0], "stopped", FOLDER])


{"forks": forks, "threads": threads, "execs": execs, "stopped": stop}[sys.argv[1]]()
