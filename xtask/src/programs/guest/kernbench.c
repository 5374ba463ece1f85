/* Runs a command, and says what it took: elapsed time, and user and system time of it and of everything it waited for. */
#include <stdio.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static long now_us(void)
{
	struct timespec time;
	clock_gettime(CLOCK_MONOTONIC, &time);
	return time.tv_sec * 1000000L + time.tv_nsec / 1000;
}

static long us(struct timeval time)
{
	return time.tv_sec * 1000000L + time.tv_usec;
}

int main(int count, char **arguments)
{
	struct rusage used;
	int status = 1;
	long start = now_us();
	pid_t child = count > 1 ? vfork() : -1;
	if (child == 0) {
		execvp(arguments[1], arguments + 1);
		_exit(127);
	}
	if (child < 0 || wait4(child, &status, 0, &used) != child) {
		perror("kernbench");
		return 1;
	}
	printf("real %ld user %ld system %ld faults %ld\n", now_us() - start, us(used.ru_utime), us(used.ru_stime), used.ru_minflt);
	return status != 0;
}
