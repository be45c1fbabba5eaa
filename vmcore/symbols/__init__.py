"""Names, addresses and struct layouts of one kernel build, from any source, compiled into a kernel profile."""
