#include <stdio.h>
#include <sys/utsname.h>

int main(void)
{
	struct utsname here;

	uname(&here);
	printf("hello from %s on %s\n", here.sysname, here.machine);
	return 0;
}
