/* What threads and processes use: user and system time told apart, where it is counted, and by which clocks it can be read. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/times.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define PAGE 4096
#define PAGES 100
/* Long enough to be seen by kernels that only look at each tick. */
#define SHARE_US 300000L

static int wrong;
static void expect(int holds, const char *what)
{
	if (!holds) {
		printf("usage: %s\n", what);
		wrong = 1;
	}
}

static long us(struct timeval time)
{
	return time.tv_sec * 1000000L + time.tv_usec;
}

struct used {
	long user, system, faults;
};

static struct used used_by(int who)
{
	struct rusage usage;
	memset(&usage, 0xff, sizeof usage);
	expect(getrusage(who, &usage) == 0, "getrusage failed");
	return (struct used){us(usage.ru_utime), us(usage.ru_stime), usage.ru_minflt};
}

static struct used since(int who, struct used before)
{
	struct used now = used_by(who);
	return (struct used){now.user - before.user, now.system - before.system, now.faults - before.faults};
}

static long clock_us(clockid_t clock)
{
	struct timespec time = {-1, -1};
	expect(clock_gettime(clock, &time) == 0, "clock_gettime failed");
	return time.tv_sec * 1000000L + time.tv_nsec / 1000;
}

/* Stays in user mode for most of so long a time of its own. */
static void spin(void)
{
	long end = clock_us(CLOCK_THREAD_CPUTIME_ID) + SHARE_US;
	while (clock_us(CLOCK_THREAD_CPUTIME_ID) < end)
		for (volatile int turns = 0; turns < 1000000; turns++)
			;
}

/* Stays in the kernel for most of that. */
static void have_read(void)
{
	static char bytes[1 << 16];
	int zero = open("/dev/zero", O_RDONLY);
	long end = clock_us(CLOCK_THREAD_CPUTIME_ID) + SHARE_US;
	while (clock_us(CLOCK_THREAD_CPUTIME_ID) < end)
		expect(read(zero, bytes, sizeof bytes) > 0, "reading failed");
	close(zero);
}

static void user_and_system(void)
{
	long real = clock_us(CLOCK_MONOTONIC);
	struct used before = used_by(RUSAGE_SELF), spun, read;
	spin();
	spun = since(RUSAGE_SELF, before);
	before = used_by(RUSAGE_SELF);
	have_read();
	read = since(RUSAGE_SELF, before);
	real = clock_us(CLOCK_MONOTONIC) - real;
	/* Who shares the machine may take its CPU away at any moment, whose time that then is. */
	expect(spun.user > spun.system && spun.user > SHARE_US / 2, "spinning is no user time");
	expect(read.system > read.user && read.system > SHARE_US / 2, "reading is no system time");
	expect(spun.user + spun.system + read.user + read.system <= real + 20000, "more than the time that passed");
}

static void *in_thread(void *clock)
{
	struct used before = used_by(RUSAGE_THREAD), own;
	expect(before.user + before.system < SHARE_US / 2, "a new thread has used something");
	spin();
	own = since(RUSAGE_THREAD, before);
	expect(own.user > SHARE_US / 2, "a thread's own time");
	pthread_getcpuclockid(pthread_self(), clock);
	expect(clock_us(*(clockid_t *)clock) > SHARE_US / 2, "a thread's clock by its name");
	return 0;
}

static void threads(void)
{
	pthread_t thread;
	clockid_t clock;
	struct used own = used_by(RUSAGE_THREAD), all = used_by(RUSAGE_SELF);
	pthread_create(&thread, 0, in_thread, &clock);
	pthread_join(thread, 0);
	own = since(RUSAGE_THREAD, own);
	all = since(RUSAGE_SELF, all);
	expect(own.user < SHARE_US / 2, "another thread's time is this one's");
	expect(all.user > SHARE_US / 2, "a thread's time is not its process's");
	/* Its end is told before it is quite gone. */
	for (int tries = 0; tries < 1000 && clock_gettime(clock, &(struct timespec){0}) == 0; tries++)
		usleep(1000);
	expect(clock_gettime(clock, &(struct timespec){0}) != 0 && errno == EINVAL, "the clock of a thread that is gone");
}

static void children(void)
{
	struct used before = used_by(RUSAGE_CHILDREN), after;
	struct rusage usage;
	clockid_t clock;
	siginfo_t info;
	int status;
	pid_t child = fork();
	if (child == 0) {
		/* A grandchild that is asked for counts, one that is not does not. */
		for (int asked = 0; asked < 2; asked++) {
			pid_t grandchild = fork();
			if (grandchild == 0) {
				spin();
				_exit(0);
			}
			waitid(P_PID, grandchild, &info, WEXITED | (asked ? 0 : WNOWAIT));
		}
		_exit(0);
	}
	expect(clock_getcpuclockid(child, &clock) == 0, "a process's clock has no name");
	waitid(P_PID, child, &info, WEXITED | WNOWAIT);
	after = since(RUSAGE_CHILDREN, before);
	expect(after.user == 0 && after.system == 0, "a child counts before it is asked for");
	expect(wait4(child, &status, 0, &usage) == child, "wait4 failed");
	after = since(RUSAGE_CHILDREN, before);
	expect(us(usage.ru_utime) == after.user && us(usage.ru_stime) == after.system, "wait4 and getrusage differ");
	expect(after.user > SHARE_US / 2 && after.user < 2 * SHARE_US, "one grandchild's time");
	expect(usage.ru_minflt > 0 && usage.ru_minflt == after.faults, "a child's faults");
	expect(clock_gettime(clock, &(struct timespec){0}) != 0 && errno == EINVAL, "the clock of a process that is gone");
}

static void clocks(void)
{
	struct used before = used_by(RUSAGE_SELF), after;
	long clock = clock_us(CLOCK_PROCESS_CPUTIME_ID), tick = 1000000 / sysconf(_SC_CLK_TCK), user, system;
	struct tms ticks;
	char line[1024] = "", *field;
	int file;
	times(&ticks);
	file = open("/proc/self/stat", O_RDONLY);
	expect(read(file, line, sizeof line - 1) > 0, "no /proc/self/stat");
	close(file);
	after = used_by(RUSAGE_SELF);
	field = strrchr(line, ')');
	expect(field && sscanf(field, ") %*c %*d %*d %*d %*d %*d %*u %*u %*u %*u %*u %ld %ld", &user, &system) == 2, "no times in /proc/self/stat");
	expect(before.user + before.system <= clock + 1 && clock <= after.user + after.system + 1, "the process's clock");
	expect(before.user / tick <= ticks.tms_utime && ticks.tms_utime <= after.user / tick, "times: user");
	expect(before.system / tick <= ticks.tms_stime && ticks.tms_stime <= after.system / tick, "times: system");
	expect(before.user / tick <= user && user <= after.user / tick, "/proc/self/stat: user");
	expect(before.system / tick <= system && system <= after.system / tick, "/proc/self/stat: system");
}

static void faults(void)
{
	struct used before;
	char *at = mmap(0, PAGES * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	before = used_by(RUSAGE_SELF);
	for (int page = 0; page < PAGES; page++)
		at[page * PAGE] = 1;
	before = since(RUSAGE_SELF, before);
	expect(before.faults >= PAGES && before.faults < 2 * PAGES, "faults");
}

static void refusals(void)
{
	struct rusage usage;
	struct timespec time;
	expect(getrusage(5, &usage) == -1 && errno == EINVAL, "getrusage of nothing");
	expect(clock_gettime(99, &time) == -1 && errno == EINVAL, "a clock that is none");
	expect(clock_gettime((clockid_t)(~999999u << 3 | 2), &time) == -1 && errno == EINVAL, "the clock of nobody");
	expect(clock_getres(CLOCK_PROCESS_CPUTIME_ID, &time) == 0 && time.tv_nsec == 1, "the resolution");
}

int main(void)
{
	user_and_system();
	threads();
	children();
	clocks();
	faults();
	refusals();
	if (!wrong)
		puts("usage: as expected");
	return wrong;
}
