/* The vector registers of threads: kept while others run, by fork, and over signals, whose handlers find and change them in their frame. */
#define _GNU_SOURCE
#include <pthread.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <ucontext.h>
#include <unistd.h>

static int wrong;

static void expect(int holds, const char *what)
{
	if (!holds) {
		printf("vectors: %s\n", what);
		wrong = 1;
	}
}

/* `hold_registers` puts `in` into all vector registers, makes a system call again and again, and stores the registers to `out`. */
#if defined(__x86_64__)

#include <cpuid.h>

#define COUNT 16
#define LARGEST 32

#define EACH(F) F(0) F(1) F(2) F(3) F(4) F(5) F(6) F(7) F(8) F(9) F(10) F(11) F(12) F(13) F(14) F(15)
#define NAME(n) "xmm" #n,
#define LOAD_SSE(n) "movdqu " #n "*16(%[in]), %%xmm" #n "\n"
#define STORE_SSE(n) "movdqu %%xmm" #n ", " #n "*16(%[out])\n"
#define LOAD_AVX(n) "vmovdqu " #n "*32(%[in]), %%ymm" #n "\n"
#define STORE_AVX(n) "vmovdqu %%ymm" #n ", " #n "*32(%[out])\n"
#define CALLS "1: mov %[number], %%rax\n mov $2000, %%ecx\n 2: pause\n dec %%ecx\n jnz 2b\n syscall\n dec %[times]\n jnz 1b\n"

static int has_avx(void)
{
	unsigned a, b, c, d, low, high;
	if (!__get_cpuid(1, &a, &b, &c, &d) || !(c & bit_OSXSAVE) || !(c & bit_AVX))
		return 0;
	__asm__("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
	return (low & 6) == 6;
}

static size_t register_bytes(void)
{
	return has_avx() ? 32 : 16;
}

static long hold_registers(const void *in, void *out, long number, long argument, long times)
{
	long result;
	if (has_avx()) {
		__asm__ volatile(EACH(LOAD_AVX) CALLS EACH(STORE_AVX) "vzeroupper\n"
			: "=&a"(result), [times] "+r"(times)
			: [in] "r"(in), [out] "r"(out), [number] "r"(number), "D"(argument), "S"(0), "d"(0)
			: EACH(NAME) "rcx", "r8", "r10", "r11", "memory");
	} else {
		__asm__ volatile(EACH(LOAD_SSE) CALLS EACH(STORE_SSE)
			: "=&a"(result), [times] "+r"(times)
			: [in] "r"(in), [out] "r"(out), [number] "r"(number), "D"(argument), "S"(0), "d"(0)
			: EACH(NAME) "rcx", "r8", "r10", "r11", "memory");
	}
	return result;
}

/* Where register 0 is in a handler's frame: its first 16 bytes, and those that follow, if there are any. */
static unsigned char *first_in(ucontext_t *context)
{
	return (unsigned char *)context->uc_mcontext.fpregs->_xmm;
}

static unsigned char *upper_in(ucontext_t *context)
{
	unsigned char *area = (unsigned char *)context->uc_mcontext.fpregs;
	uint32_t magic, bytes, end;
	memcpy(&magic, area + 464, 4);
	memcpy(&bytes, area + 480, 4);
	if (!has_avx())
		return 0;
	expect(magic == 0x46505853 && bytes >= 832, "the frame does not say that it has the upper halves");
	memcpy(&end, area + bytes, 4);
	expect(end == 0x46505845, "the frame has no mark of its end");
	return area + 576;
}

static uint64_t control(void)
{
	uint32_t mxcsr;
	__asm__ volatile("stmxcsr %0" : "=m"(mxcsr));
	return mxcsr;
}

static void set_control(uint64_t value)
{
	uint32_t mxcsr = value;
	__asm__ volatile("ldmxcsr %0" : : "m"(mxcsr));
}

/* To zero, subnormal numbers are zero, rounding up; a handler has what a program starts with. */
#define UNUSUAL_CONTROL 0xdfc0
#define HANDLERS_CONTROL 0x1f80

#elif defined(__aarch64__)

#define COUNT 32
#define LARGEST 16

#define PAIRS(F) F(0, 1) F(2, 3) F(4, 5) F(6, 7) F(8, 9) F(10, 11) F(12, 13) F(14, 15) F(16, 17) F(18, 19) F(20, 21) F(22, 23) F(24, 25) F(26, 27) F(28, 29) F(30, 31)
#define NAMES(n, m) "v" #n, "v" #m,
#define LOAD(n, m) "ldp q" #n ", q" #m ", [%[in], #" #n "*16]\n"
#define STORE(n, m) "stp q" #n ", q" #m ", [%[out], #" #n "*16]\n"

static size_t register_bytes(void)
{
	return 16;
}

static long hold_registers(const void *in, void *out, long number, long argument, long times)
{
	register long first __asm__("x0") = argument;
	register long call __asm__("x8") = number;
	__asm__ volatile(PAIRS(LOAD)
		"1: mov x0, %[argument]\n mov x1, xzr\n mov x2, xzr\n mov x3, xzr\n mov x4, xzr\n mov x9, #2000\n 2: subs x9, x9, #1\n b.ne 2b\n"
		"svc #0\n subs %[times], %[times], #1\n b.ne 1b\n"
		PAIRS(STORE)
		: "+r"(first), [times] "+&r"(times)
		: [in] "r"(in), [out] "r"(out), [argument] "r"(argument), "r"(call)
		: PAIRS(NAMES) "x1", "x2", "x3", "x4", "x9", "cc", "memory");
	return first;
}

static struct fpsimd_context *vectors_in(ucontext_t *context)
{
	struct fpsimd_context *vectors = (void *)context->uc_mcontext.__reserved;
	expect(vectors->head.magic == FPSIMD_MAGIC && vectors->head.size == sizeof(*vectors), "the frame's head is none of vectors");
	return vectors;
}

static unsigned char *first_in(ucontext_t *context)
{
	return (unsigned char *)vectors_in(context)->vregs;
}

static unsigned char *upper_in(ucontext_t *context)
{
	(void)context;
	return 0;
}

static uint64_t control(void)
{
	uint64_t fpcr;
	__asm__ volatile("mrs %0, fpcr" : "=r"(fpcr));
	return fpcr;
}

static void set_control(uint64_t value)
{
	__asm__ volatile("msr fpcr, %0" : : "r"(value));
}

/* Subnormal numbers are zero, rounding up; a handler has the same. */
#define UNUSUAL_CONTROL 0x01400000
#define HANDLERS_CONTROL UNUSUAL_CONTROL

#endif

typedef unsigned char registers[COUNT * LARGEST];

static size_t all_bytes(void)
{
	return COUNT * register_bytes();
}

static void fill(registers all, unsigned seed)
{
	for (size_t at = 0; at < sizeof(registers); at++)
		all[at] = (seed * 2654435761u + at * 40503u) >> 13;
}

static volatile sig_atomic_t handled;
static volatile uint64_t control_inside;

/* Spoils every register. */
static void on_alarm(int signal)
{
	registers mine, after;
	(void)signal;
	fill(mine, 4711);
	hold_registers(mine, after, SYS_getpid, 0, 1);
	handled++;
}

/* Changes the first register of whom it interrupted, the whole of it. */
static void on_user(int signal, siginfo_t *info, void *given)
{
	ucontext_t *context = given;
	unsigned char *upper = upper_in(context);
	(void)signal;
	(void)info;
	control_inside = control();
	memset(first_in(context), 0x5a, 16);
	if (upper)
		memset(upper, 0xa5, 16);
	handled++;
}

/* What a signal finds and leaves. */
static void frames(void)
{
	struct sigaction action = {.sa_sigaction = on_user, .sa_flags = SA_SIGINFO};
	registers before, after;
	fill(before, 1);
	sigaction(SIGUSR1, &action, 0);
	uint64_t usual = control();
	set_control(UNUSUAL_CONTROL);
	hold_registers(before, after, SYS_kill, getpid(), 1);
	set_control(usual);
	expect(!memcmp(before, after, all_bytes()), "a call without a signal changed registers");
	set_control(UNUSUAL_CONTROL);
	pthread_kill(pthread_self(), SIGUSR1);
	uint64_t found = control();
	set_control(usual);
	expect(handled == 1, "no signal came");
	expect(found == UNUSUAL_CONTROL, "the control register came back changed");
	expect(control_inside == HANDLERS_CONTROL, "the handler's control register");
}

static void *tell_later(void *thread)
{
	usleep(20000);
	pthread_kill(*(pthread_t *)thread, SIGUSR1);
	return 0;
}

static void changed_by_handler(void)
{
	pthread_t teller, self = pthread_self();
	registers before, after;
	fill(before, 2);
	handled = 0;
	pthread_create(&teller, 0, tell_later, &self);
	for (int tries = 0; tries < 1000 && !handled; tries++)
		hold_registers(before, after, SYS_sched_yield, 0, 50);
	pthread_join(teller, 0);
	expect(handled == 1, "the other thread's signal did not come");
	/* The signal may have come between two holds, and then left nothing. */
	if (!memcmp(before, after, all_bytes()))
		return;
	for (size_t at = 0; at < register_bytes(); at++)
		before[at] = at < 16 ? 0x5a : 0xa5;
	expect(!memcmp(before, after, all_bytes()), "what a handler changed is not what came back");
}

static void *hold_long(void *seed)
{
	registers before, after;
	for (unsigned round = 0; round < 20; round++) {
		fill(before, (unsigned)(uintptr_t)seed + 16 * round);
		hold_registers(before, after, SYS_sched_yield, 0, 20);
		if (memcmp(before, after, all_bytes()))
			return "registers were lost while others ran";
	}
	return 0;
}

static void threads(void)
{
	struct sigaction action = {.sa_handler = on_alarm, .sa_flags = SA_RESTART};
	struct itimerval often = {{0, 5000}, {0, 5000}}, never = {{0, 0}, {0, 0}};
	pthread_t all[8];
	sigaction(SIGALRM, &action, 0);
	handled = 0;
	setitimer(ITIMER_REAL, &often, 0);
	for (uintptr_t at = 0; at < 8; at++)
		pthread_create(&all[at], 0, hold_long, (void *)at);
	for (int at = 0; at < 8; at++) {
		void *said;
		pthread_join(all[at], &said);
		expect(!said, said);
	}
	setitimer(ITIMER_REAL, &never, 0);
	expect(handled > 0, "no alarm came");
}

static void forked(void)
{
	registers before, after;
	int status = -1;
	fill(before, 3);
	long child = hold_registers(before, after, SYS_clone, SIGCHLD, 1);
	if (child == 0)
		_exit(memcmp(before, after, all_bytes()) ? 1 : 0);
	expect(child > 0 && waitpid(child, &status, 0) == child, "no child");
	expect(status == 0, "a child starts with other registers");
	expect(!memcmp(before, after, all_bytes()), "a fork changed the parent's registers");
}

int main(void)
{
	frames();
	changed_by_handler();
	threads();
	forked();
	if (!wrong)
		puts("vectors: as expected");
	return wrong;
}
