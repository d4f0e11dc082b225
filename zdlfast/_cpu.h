/* What the CPU and the operating system can run, asked before a kernel module is loaded; how
 * to prefetch; and which compiler built this. Each has one answer per platform. */

#ifndef ZDLFAST_CPU_H
#define ZDLFAST_CPU_H

#if defined(__x86_64__) || defined(_M_X64)
#define ZDL_X86_64 1
#else
#define ZDL_X86_64 0
#endif

#if !ZDL_X86_64

static int zdl_has_avx2(void) { return 0; }
static int zdl_has_avx512(void) { return 0; }

#elif defined(_MSC_VER)

#include <windows.h>
/* PF_AVX2_INSTRUCTIONS_AVAILABLE and PF_AVX512F_INSTRUCTIONS_AVAILABLE: by number, because
 * older SDKs lack the names. */
static int zdl_has_avx2(void) { return IsProcessorFeaturePresent(40) != 0; }
static int zdl_has_avx512(void) { return IsProcessorFeaturePresent(41) != 0; }

#elif defined(__APPLE__)

#include <sys/sysctl.h>
/* macOS switches AVX-512 on when a thread first uses it, so XCR0 does not show it. */
static int zdl_sysctl(const char *name)
{
    int value = 0;
    size_t size = sizeof value;
    return sysctlbyname(name, &value, &size, 0, 0) == 0 && value != 0;
}
static int zdl_has_avx2(void) { return zdl_sysctl("hw.optional.avx2_0"); }
static int zdl_has_avx512(void) { return zdl_sysctl("hw.optional.avx512f"); }

#else

static int zdl_has_avx2(void)
{
    __builtin_cpu_init();
    return __builtin_cpu_supports("avx2") != 0;
}
static int zdl_has_avx512(void)
{
    __builtin_cpu_init();
    return __builtin_cpu_supports("avx512f") != 0;
}

#endif

/* Have a line of memory brought to the cache. Any address will do: it never faults. */
#if defined(_MSC_VER) && ZDL_X86_64
#include <intrin.h>
#define ZDL_PREFETCH(address) _mm_prefetch((const char *)(address), _MM_HINT_T0)
#elif defined(__GNUC__)
#define ZDL_PREFETCH(address) __builtin_prefetch((const void *)(address))
#else
#define ZDL_PREFETCH(address) ((void)(address))
#endif

#define ZDL_TEXT_(x) #x
#define ZDL_TEXT(x) ZDL_TEXT_(x)

#if defined(__clang__)
#define ZDL_COMPILER "clang " __clang_version__
#elif defined(__GNUC__)
#define ZDL_COMPILER "gcc " __VERSION__
#elif defined(_MSC_FULL_VER)
#define ZDL_COMPILER "msvc " ZDL_TEXT(_MSC_FULL_VER)
#else
#define ZDL_COMPILER "unknown"
#endif

#endif
