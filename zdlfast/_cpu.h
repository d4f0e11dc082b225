/* What the CPU and the operating system can run, asked before a kernel module is loaded;
 * and which compiler built this. Each question has one answer per platform. */

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
