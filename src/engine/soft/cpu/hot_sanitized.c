void hot_asan_no_return(void);

void hot_asan_no_return(void)
{
}
