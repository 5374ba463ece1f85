/* What programs ask of memory, step by step; says "memory: as expected" if all of it is as on Linux. */
#define _GNU_SOURCE
#include <setjmp.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#define PAGE 4096
#define BYTES (64 * PAGE)
#define EXPECT(what) \
	do { if (!(what)) { printf("line %d: not so: %s\n", __LINE__, #what); exit(1); } } while (0)

static sigjmp_buf before;
static volatile int code;
static void *volatile where;

static void caught(int signal, siginfo_t *info, void *context)
{
	code = info->si_code;
	where = info->si_addr;
	siglongjmp(before, signal);
}

/* Each returns the signal that the access raises, or 0. */
static int load(volatile char *at)
{
	int signal = sigsetjmp(before, 1);
	if (!signal)
		(void)*at;
	return signal;
}

static int store(volatile char *at)
{
	int signal = sigsetjmp(before, 1);
	if (!signal)
		*at = 77;
	return signal;
}

static int call(void *at)
{
	int signal = sigsetjmp(before, 1);
	return signal ? -signal : ((int (*)(void))at)();
}

static int holds(char *at, char value, size_t bytes)
{
	for (size_t i = 0; i < bytes; i++)
		if (at[i] != value)
			return 0;
	return 1;
}

static char *anonymous(int flags)
{
	char *at = mmap(0, BYTES, PROT_READ | PROT_WRITE, flags | MAP_ANONYMOUS, -1, 0);
	EXPECT(at != MAP_FAILED);
	return at;
}

static void child_ends_well(pid_t child)
{
	int status;
	EXPECT(waitpid(child, &status, 0) == child && status == 0);
}

static void nothing_may_use_it(void)
{
	char *at = anonymous(MAP_PRIVATE);
	memset(at, 5, BYTES);
	EXPECT(!mprotect(at, BYTES, PROT_NONE));
	EXPECT(load(at) == SIGSEGV && code == SEGV_ACCERR && where == at);
	EXPECT(store(at + BYTES - 1) == SIGSEGV);
	EXPECT(write(1, at, 1) == -1);
	EXPECT(!mprotect(at + PAGE, PAGE, PROT_READ));
	EXPECT(load(at + PAGE) == 0 && at[PAGE] == 5 && store(at + PAGE) == SIGSEGV);
	EXPECT(load(at) == SIGSEGV);
	pid_t child = fork();
	if (!child) {
		EXPECT(load(at) == SIGSEGV);
		EXPECT(!mprotect(at, BYTES, PROT_READ | PROT_WRITE) && holds(at, 5, BYTES));
		memset(at, 6, BYTES);
		_exit(0);
	}
	child_ends_well(child);
	EXPECT(!mprotect(at, BYTES, PROT_READ | PROT_WRITE) && holds(at, 5, BYTES));
	EXPECT(store(at + 9) == 0);
	/* It moves, and what is in it comes along. */
	EXPECT(!mprotect(at, BYTES, PROT_NONE));
	char *moved = mremap(at, BYTES, 2 * BYTES, MREMAP_MAYMOVE);
	EXPECT(moved != MAP_FAILED && load(moved) == SIGSEGV);
	EXPECT(!mprotect(moved, 2 * BYTES, PROT_READ));
	EXPECT(moved[9] == 77 && moved[10] == 5 && moved[BYTES] == 0);
	EXPECT(!mprotect(moved, BYTES, PROT_NONE) && !munmap(moved, BYTES / 2));
	EXPECT(!munmap(moved, 2 * BYTES) && load(moved) == SIGSEGV && code == SEGV_MAPERR);
}

static void processes_share_it(void)
{
	char *at = anonymous(MAP_SHARED);
	at[0] = 1;
	pid_t child = fork();
	if (!child) {
		at[0] = 2;
		at[2 * PAGE] = 3;
		_exit(0);
	}
	child_ends_well(child);
	EXPECT(at[0] == 2 && at[2 * PAGE] == 3);
	EXPECT(!mprotect(at, BYTES, PROT_NONE) && load(at) == SIGSEGV);
	EXPECT(!mprotect(at, BYTES, PROT_READ | PROT_WRITE) && at[0] == 2);
	EXPECT(!munmap(at, BYTES));
}

static void a_file_is_what_its_mappings_are(void)
{
	char read[6];
	int file = syscall(SYS_memfd_create, "some", 0);
	EXPECT(file >= 0 && !ftruncate(file, 2 * PAGE));
	char *at = mmap(0, 3 * PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
	EXPECT(at != MAP_FAILED);
	strcpy(at + 10, "hello");
	EXPECT(pread(file, read, 6, 10) == 6 && !strcmp(read, "hello"));
	EXPECT(pwrite(file, "HELLO", 5, PAGE) == 5 && !memcmp(at + PAGE, "HELLO", 5));
	EXPECT(load(at + 2 * PAGE) == SIGBUS && code == BUS_ADRERR);
	EXPECT(!ftruncate(file, 3 * PAGE) && load(at + 2 * PAGE) == 0);
	EXPECT(!ftruncate(file, PAGE) && lseek(file, 0, SEEK_END) == PAGE);
	char *own = mmap(0, PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE, file, 0);
	EXPECT(own != MAP_FAILED);
	own[10] = 'J';
	EXPECT(at[10] == 'h');
	EXPECT(!mprotect(own, PAGE, PROT_NONE) && load(own) == SIGSEGV);
	EXPECT(!mprotect(own, PAGE, PROT_READ) && own[10] == 'J');
}

static void code_is_made(void)
{
#ifdef __x86_64__
	static const unsigned char answer[] = {0xb8, 42, 0, 0, 0, 0xc3};
#else
	static const unsigned char answer[] = {0x40, 0x05, 0x80, 0x52, 0xc0, 0x03, 0x5f, 0xd6};
#endif
	char *at = anonymous(MAP_PRIVATE);
	memcpy(at, answer, sizeof(answer));
	EXPECT(call(at) == -SIGSEGV);
	EXPECT(!mprotect(at, PAGE, PROT_READ | PROT_EXEC));
	__builtin___clear_cache(at, at + PAGE);
	EXPECT(call(at) == 42 && store(at) == SIGSEGV);
	EXPECT(!mprotect(at, PAGE, PROT_READ) && call(at) == -SIGSEGV);
}

int main(void)
{
	struct sigaction action = {.sa_sigaction = caught, .sa_flags = SA_SIGINFO};
	sigaction(SIGSEGV, &action, 0);
	sigaction(SIGBUS, &action, 0);
	nothing_may_use_it();
	processes_share_it();
	a_file_is_what_its_mappings_are();
	code_is_made();
	puts("memory: as expected");
	return 0;
}
