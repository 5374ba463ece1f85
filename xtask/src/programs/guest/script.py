"""What Python programs do with threads, processes and memory. It prints the same wherever it runs."""

import concurrent.futures
import hashlib
import json
import mmap
import multiprocessing
import os
import queue
import re
import signal
import sqlite3
import struct
import subprocess
import tempfile
import threading
import zlib


def squares(count, results):
    results.append((count, sum(i * i for i in range(count))))


def threads():
    results = []
    all = [threading.Thread(target=squares, args=(n, results)) for n in (100, 1000, 5000, 200)]
    for thread in all:
        thread.start()
    for thread in all:
        thread.join()
    print(sorted(results))
    numbers = queue.Queue()

    def produce():
        for number in range(50):
            numbers.put(number)
        numbers.put(None)

    producer = threading.Thread(target=produce)
    producer.start()
    print(sum(iter(numbers.get, None)))
    producer.join()
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        print(list(pool.map(lambda x: x**3, range(10))))


def processes():
    print(subprocess.run(["/bin/sh", "-c", "echo from a shell; exit 3"], capture_output=True, text=True))
    cat = subprocess.Popen(["/bin/cat"], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    copied, _ = cat.communicate(b"x" * 100000)
    print(len(copied), hashlib.sha256(copied).hexdigest(), cat.returncode)
    # Uses AVX without asking whether its registers are kept.
    print(subprocess.run(["/usr/bin/cksum"], input=b"y" * 100000, capture_output=True))
    sleep = subprocess.Popen(["/bin/sleep", "100"])
    sleep.send_signal(signal.SIGTERM)
    print(sleep.wait())
    with multiprocessing.get_context("fork").Pool(2) as pool:
        print(pool.map(abs, [-1, -2, 3]))
    reader, writer = os.pipe()
    os.write(writer, b"abc")
    print(os.read(reader, 10))


def memory():
    with tempfile.TemporaryFile() as file:
        file.write(b"\0" * 65536)
        file.flush()
        with mmap.mmap(file.fileno(), 65536) as mapped:
            mapped[100:105] = b"hello"
            mapped.flush()
            file.seek(100)
            print(file.read(5), mapped.find(b"hello"))
            child = os.fork()
            if child == 0:
                mapped[200:203] = b"kid"
                os._exit(7)
            print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), mapped[200:203])
    mapped = mmap.mmap(-1, 4096)
    mapped[:4] = struct.pack("<I", 0xDEADBEEF)
    print(mapped[:4].hex())


def signals():
    seen = []
    signal.signal(signal.SIGUSR1, lambda *_: seen.append("user"))
    os.kill(os.getpid(), signal.SIGUSR1)
    signal.signal(signal.SIGALRM, lambda *_: seen.append("alarm"))
    signal.setitimer(signal.ITIMER_REAL, 0.05)
    while "alarm" not in seen:
        signal.pause()
    print(seen)


def files():
    print(zlib.crc32(zlib.decompress(zlib.compress(b"abc" * 10000))))
    with tempfile.TemporaryDirectory() as folder:
        base = sqlite3.connect(folder + "/base")
        base.execute("create table t(a, b)")
        base.executemany("insert into t values(?, ?)", [(i, str(i)) for i in range(1000)])
        base.commit()
        print(base.execute("select sum(a), count(b) from t").fetchone())
        base.close()
        print(sorted(os.listdir(folder)))
    try:
        os.open("/nowhere", os.O_RDONLY)
    except OSError as error:
        print(error)
    print("json", json.dumps({"a": [1, 2, {"b": None}]}), re.findall(r"\d+", "a1b22c333"))


if __name__ == "__main__":
    for part in (threads, processes, memory, signals, files):
        part()
