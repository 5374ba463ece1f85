/* Uses up what the kernel has, one thing after the other: each is refused or ends a process, and is there again afterwards. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#define PAGE 4096
#define EXPECT(what) \
	do { if (!(what)) { printf("line %d: not so: %s (errno %d)\n", __LINE__, #what, errno); exit(1); } } while (0)

static int is_full(void)
{
	return errno == ENOSPC || errno == ENOMEM;
}

static void data_of_files(void)
{
	static char piece[65536];
	long bytes = 0, now;
	memset(piece, 1, sizeof(piece));
	int file = open("/tmp/large", O_CREAT | O_RDWR, 0644);
	while ((now = write(file, piece, sizeof(piece))) > 0)
		bytes += now;
	EXPECT(is_full() && bytes > 16 << 20);
	EXPECT(lseek(file, 0, SEEK_END) == bytes);
	EXPECT(!ftruncate(file, PAGE) && write(file, piece, 1) == 1);
	close(file);
	EXPECT(!unlink("/tmp/large"));
}

static void names_of_files(void)
{
	char name[80];
	long count;
	for (count = 0;; count++) {
		sprintf(name, "/tmp/%060ld", count);
		int file = open(name, O_CREAT | O_WRONLY, 0644);
		if (file < 0)
			break;
		close(file);
	}
	EXPECT(is_full() && count > 1000);
	while (count--) {
		sprintf(name, "/tmp/%060ld", count);
		EXPECT(!unlink(name));
	}
}

/* What ends a process that touches more than there is. */
static int end_of_touching(int flags, long bytes)
{
	int status;
	pid_t child = fork();
	if (!child) {
		char *at = mmap(0, bytes, PROT_READ | PROT_WRITE, flags | MAP_ANONYMOUS, -1, 0);
		if (at == MAP_FAILED)
			_exit(errno);
		for (long i = 0; i < bytes; i += PAGE)
			at[i] = 1;
		_exit(0);
	}
	EXPECT(waitpid(child, &status, 0) == child);
	return WIFSIGNALED(status) ? -WTERMSIG(status) : WEXITSTATUS(status);
}

static void mappings(void)
{
	int status;
	pid_t child = fork();
	if (!child) {
		long count = 0;
		while (mmap(0, PAGE, count & 1 ? PROT_READ : PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0) != MAP_FAILED)
			count++;
		_exit(errno == ENOMEM && count > 1000 ? 0 : 1);
	}
	EXPECT(waitpid(child, &status, 0) == child && status == 0);
}

int main(void)
{
	data_of_files();
	names_of_files();
	EXPECT(end_of_touching(MAP_PRIVATE, 16L << 30) == -SIGKILL);
	EXPECT(end_of_touching(MAP_SHARED, 16L << 30) == ENOMEM);
	EXPECT(end_of_touching(MAP_SHARED, sysconf(_SC_PHYS_PAGES) / 16 * 15 * PAGE) == -SIGKILL);
	mappings();
	data_of_files();
	puts("exhaustion: as expected");
	return 0;
}
