/* clone3, threads that end with locks in their robust lists, and processes that share descriptors. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <spawn.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#ifndef SYS_clone3
#define SYS_clone3 435
#endif
#ifndef CLONE_CLEAR_SIGHAND
#define CLONE_CLEAR_SIGHAND 0x100000000ull
#endif
#ifndef CLONE_PIDFD
#define CLONE_PIDFD 0x1000
#endif
#define WAITERS 0x80000000u
#define OWNER_DIED 0x40000000u
#define LIMIT 2048
#define STACK 65536

/* As the kernel has it. */
struct wanted {
	uint64_t flags, pidfd, child_number, parent_number, exit_signal, stack, stack_size, tls, set_tid, set_tid_size, cgroup, unknown;
};

struct list {
	struct list *next;
};

struct head {
	struct list list;
	long to_lock;
	struct list *pending;
};

struct lock {
	struct list list;
	uint32_t word;
};

extern char **environ;
static int wrong;

static void expect(int holds, const char *what)
{
	if (!holds) {
		printf("cloning: %s (errno %d)\n", what, errno);
		wrong = 1;
	}
}

static long clone3_of(struct wanted wanted, size_t size)
{
	return syscall(SYS_clone3, &wanted, size);
}

static int refuses(struct wanted wanted, size_t size, int error)
{
	long child = clone3_of(wanted, size);
	if (child == 0)
		_exit(0);
	if (child > 0)
		waitpid(child, 0, 0);
	return child == -1 && errno == error;
}

static void refusals(void)
{
	static char large[8192];
	static char stack[STACK];
	struct wanted simple = {.exit_signal = SIGCHLD}, wanted;
	expect(refuses(simple, 56, EINVAL), "a structure that is too short");
	expect(refuses(simple, 8192, E2BIG), "a structure of more than a page");
	wanted = simple;
	wanted.unknown = 1;
	expect(refuses(wanted, sizeof wanted, E2BIG), "what nobody knows");
	memcpy(large, &simple, sizeof simple);
	large[1000] = 1;
	expect(syscall(SYS_clone3, large, 1001) == -1 && errno == E2BIG, "what nobody knows, far behind");
	expect(syscall(SYS_clone3, (void *)8, 64) == -1 && errno == EFAULT, "a structure that is nowhere");
	wanted = (struct wanted){.flags = SIGCHLD};
	expect(refuses(wanted, 88, EINVAL), "a signal among the flags");
	wanted = (struct wanted){.flags = 1ull << 40, .exit_signal = SIGCHLD};
	expect(refuses(wanted, 88, EINVAL), "a flag that is none");
	wanted = (struct wanted){.exit_signal = 65};
	expect(refuses(wanted, 88, EINVAL), "a signal that is none");
	wanted = (struct wanted){.exit_signal = SIGCHLD, .stack = (uintptr_t)stack};
	expect(refuses(wanted, 88, EINVAL), "a stack without a size");
	wanted = (struct wanted){.exit_signal = SIGCHLD, .stack_size = STACK};
	expect(refuses(wanted, 88, EINVAL), "a size without a stack");
	wanted = (struct wanted){.exit_signal = SIGCHLD, .stack = 0xffff800000000000, .stack_size = STACK};
	expect(refuses(wanted, 88, EINVAL), "a stack of the kernel's");
	wanted = (struct wanted){.flags = CLONE_VM | CLONE_SIGHAND | CLONE_CLEAR_SIGHAND, .exit_signal = SIGCHLD};
	expect(refuses(wanted, 88, EINVAL), "handlers shared and cleared");
	wanted = (struct wanted){.flags = CLONE_THREAD, .exit_signal = 0};
	expect(refuses(wanted, 88, EINVAL), "a thread with memory of its own");
	wanted = (struct wanted){.flags = CLONE_THREAD | CLONE_VM | CLONE_SIGHAND, .exit_signal = SIGCHLD, .stack = (uintptr_t)stack, .stack_size = STACK};
	expect(refuses(wanted, 88, EINVAL), "a thread with a signal at its end");
	wanted = (struct wanted){.exit_signal = SIGCHLD, .set_tid = 0, .set_tid_size = 1};
	expect(refuses(wanted, 88, EINVAL), "a count of numbers that are nowhere");
}

static void handler(int signal)
{
	(void)signal;
}

static int status_of(pid_t child)
{
	int status = -1;
	expect(waitpid(child, &status, 0) == child, "no child to wait for");
	return status;
}

/* Zeroes behind what is known are as good as nothing, and the first version does. */
static void children(void)
{
	struct wanted wanted = {.exit_signal = SIGCHLD};
	size_t sizes[] = {64, 80, 88, 96};
	uint32_t numbers[2] = {0, 0};
	for (int i = 0; i < 4; i++) {
		long child = clone3_of(wanted, sizes[i]);
		if (child == 0)
			_exit(7);
		expect(WEXITSTATUS(status_of(child)) == 7, "a child");
	}
	wanted.flags = CLONE_PARENT_SETTID | CLONE_CHILD_SETTID;
	wanted.parent_number = (uintptr_t)&numbers[0];
	wanted.child_number = (uintptr_t)&numbers[1];
	long child = clone3_of(wanted, 88);
	if (child == 0)
		_exit(numbers[1] == (uint32_t)getpid() ? 5 : 6);
	expect(WEXITSTATUS(status_of(child)) == 5 && numbers[0] == (uint32_t)child && numbers[1] == 0, "the numbers of a child");
}

static int has_handlers(uint64_t flags)
{
	struct wanted wanted = {.flags = flags, .exit_signal = SIGCHLD};
	long child = clone3_of(wanted, 88);
	if (child == 0) {
		struct sigaction one, other;
		sigaction(SIGUSR1, 0, &one);
		sigaction(SIGUSR2, 0, &other);
		_exit((one.sa_handler == handler) | (other.sa_handler == SIG_IGN) << 1);
	}
	return WEXITSTATUS(status_of(child));
}

static void handlers(void)
{
	signal(SIGUSR1, handler);
	signal(SIGUSR2, SIG_IGN);
	expect(has_handlers(0) == 3, "handlers are inherited");
	expect(has_handlers(CLONE_CLEAR_SIGHAND) == 2, "handlers are cleared, and what is ignored is not");
}

static void *twice(void *number)
{
	return (void *)(2 * (long)number);
}

/* Libraries take clone3 where it is. */
static void libraries(void)
{
	void *result = 0;
	pthread_t thread;
	pid_t child;
	char *arguments[] = {"cloning", "exits", 0};
	expect(pthread_create(&thread, 0, twice, (void *)21) == 0 && pthread_join(thread, &result) == 0 && result == (void *)42, "a thread");
	expect(posix_spawn(&child, "/proc/self/exe", 0, 0, arguments, environ) == 0 && WEXITSTATUS(status_of(child)) == 9, "posix_spawn");
	expect(posix_spawn(&child, "/nowhere", 0, 0, arguments, environ) == ENOENT, "posix_spawn of nothing");
}

static void *dies_with(void *lock)
{
	pthread_mutex_lock(lock);
	return 0;
}

static void *takes(void *lock)
{
	return (void *)(long)pthread_mutex_lock(lock);
}

static void make_robust(pthread_mutex_t *lock, int is_shared)
{
	pthread_mutexattr_t kind;
	pthread_mutexattr_init(&kind);
	pthread_mutexattr_setrobust(&kind, PTHREAD_MUTEX_ROBUST);
	pthread_mutexattr_setpshared(&kind, is_shared ? PTHREAD_PROCESS_SHARED : PTHREAD_PROCESS_PRIVATE);
	pthread_mutex_init(lock, &kind);
}

static void robust_mutexes(void)
{
	static pthread_mutex_t lock;
	pthread_t thread, waiter;
	void *result;
	make_robust(&lock, 0);
	pthread_create(&thread, 0, dies_with, &lock);
	pthread_join(thread, 0);
	expect(pthread_mutex_lock(&lock) == EOWNERDEAD, "a thread's lock");
	pthread_mutex_consistent(&lock);
	pthread_create(&waiter, 0, takes, &lock);
	usleep(20000);
	pthread_mutex_unlock(&lock);
	pthread_join(waiter, &result);
	expect(result == 0, "a lock that is let go");

	/* The same between processes, the owner killed while somebody waits. */
	pthread_mutex_t *shared = mmap(0, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	make_robust(shared, 1);
	volatile int *is_taken = (void *)((char *)shared + 2048);
	pid_t child = fork();
	if (child == 0) {
		pthread_mutex_lock(shared);
		*is_taken = 1;
		for (;;)
			pause();
	}
	while (!*is_taken)
		usleep(1000);
	pthread_create(&waiter, 0, takes, shared);
	usleep(20000);
	kill(child, SIGKILL);
	pthread_join(waiter, &result);
	expect(result == (void *)EOWNERDEAD, "a killed process's lock");
	status_of(child);
}

/* Ends with this list, in a process of its own whose memory is shared where the locks are. */
static void end_with(struct head *head)
{
	pid_t child = fork();
	if (child == 0) {
		expect(syscall(SYS_set_robust_list, head, sizeof *head) == 0, "set_robust_list");
		if ((uintptr_t)head > 4096) {
			uint32_t own = syscall(SYS_gettid);
			for (struct lock *lock = (void *)head->list.next; (void *)lock > (void *)4096 && (void *)lock != head; lock = (void *)lock->list.next) {
				if (lock->word & 1)
					lock->word = own | WAITERS;
				if (lock->list.next == &lock->list)
					break;
			}
		}
		syscall(SYS_exit, wrong);
	}
	expect(status_of(child) == 0, "the end of a process with a list");
}

static void lists(void)
{
	const int count = LIMIT + 10;
	struct head *head = mmap(0, 1 << 20, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	struct lock *locks = (void *)(head + 1);
	size_t size;
	void *where;
	head->to_lock = offsetof(struct lock, word);
	expect(syscall(SYS_set_robust_list, head, 23) == -1 && errno == EINVAL, "a head of another size");
	expect(syscall(SYS_get_robust_list, 0, &where, &size) == 0 && size == sizeof *head, "get_robust_list");

	/* Own and other locks, and one that is being taken out. */
	for (int i = 0; i < 4; i++)
		locks[i] = (struct lock){{i < 3 ? &locks[i + 1].list : &head->list}, i != 2};
	locks[2].word = 12345678 | WAITERS;
	head->list.next = &locks[0].list;
	head->pending = 0;
	end_with(head);
	expect(locks[0].word == (OWNER_DIED | WAITERS) && locks[1].word == locks[0].word && locks[3].word == locks[0].word, "own locks");
	expect(locks[2].word == (12345678 | WAITERS), "another's lock");

	/* No more than the limit. */
	for (int i = 0; i < count; i++)
		locks[i] = (struct lock){{i < count - 1 ? &locks[i + 1].list : &head->list}, 1};
	end_with(head);
	expect(locks[0].word == (OWNER_DIED | WAITERS) && locks[LIMIT - 1].word == (OWNER_DIED | WAITERS), "locks within the limit");
	expect(locks[LIMIT].word & 0x3fffffff, "locks behind the limit");

	/* A list without an end, entries that are nowhere or not aligned, heads that are nowhere: it ends all the same. */
	locks[0] = (struct lock){{&locks[0].list}, 1};
	end_with(head);
	expect(locks[0].word == (OWNER_DIED | WAITERS), "a list without an end");
	locks[0] = (struct lock){{(void *)8}, 1};
	end_with(head);
	expect(locks[0].word == (OWNER_DIED | WAITERS), "before an entry that is nowhere");
	head->to_lock = offsetof(struct lock, word) + 1;
	locks[0] = (struct lock){{&head->list}, 1};
	end_with(head);
	expect(!(locks[0].word & OWNER_DIED), "a lock that is not aligned");
	head->to_lock = 1l << 46;
	end_with(head);
	end_with((void *)8);
	munmap(head, 1 << 20);
}

static int closes(void *number)
{
	close((long)number);
	return dup2(0, 99) == 99 ? 3 : 4;
}

/* Descriptors that two processes have are the same until one runs another program. */
static void descriptors(void)
{
	static char stack[STACK] __attribute__((aligned(16)));
	long number = dup(0);
	pid_t child = clone(closes, stack + STACK, CLONE_FILES | SIGCHLD, (void *)number);
	expect(WEXITSTATUS(status_of(child)) == 3, "a child that shares descriptors");
	expect(fcntl(number, F_GETFD) == -1 && errno == EBADF, "what it closes is closed");
	expect(fcntl(99, F_GETFD) == 0 && close(99) == 0, "what it opens is open");

	number = fcntl(0, F_DUPFD_CLOEXEC, 0);
	struct wanted wanted = {.flags = CLONE_FILES, .exit_signal = SIGCHLD};
	child = clone3_of(wanted, 88);
	if (child == 0) {
		execl("/proc/self/exe", "cloning", "exits", (char *)0);
		_exit(1);
	}
	expect(WEXITSTATUS(status_of(child)) == 9, "a child that runs another program");
	expect(fcntl(number, F_GETFD) == FD_CLOEXEC, "which closes its own");
	close(number);
}

/* The first number of lists of CPUs is 0, and the last the same as the library says. */
static void cpus(void)
{
	static const char *names[] = {"online", "present", "possible"};
	int last[3];
	for (int i = 0; i < 3; i++) {
		char path[64], list[64] = "";
		snprintf(path, sizeof path, "/sys/devices/system/cpu/%s", names[i]);
		int file = open(path, O_RDONLY);
		expect(read(file, list, sizeof list - 1) > 0 && list[0] == '0' && list[strlen(list) - 1] == '\n', path);
		close(file);
		char *dash = strrchr(list, '-');
		last[i] = dash ? atoi(dash + 1) : 0;
	}
	expect(last[0] + 1 == sysconf(_SC_NPROCESSORS_ONLN) && last[0] <= last[1] && last[1] <= last[2], "CPUs");
	expect(access("/sys/devices/system/cpu/cpu0", X_OK) == 0, "the first CPU");
}

int main(int count, char **arguments)
{
	if (count > 1)
		return arguments[1][0] == 'e' ? 9 : 1;
	refusals();
	children();
	handlers();
	libraries();
	robust_mutexes();
	lists();
	descriptors();
	cpus();
	if (!wrong)
		puts("cloning: as expected");
	return wrong;
}
