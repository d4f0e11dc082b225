/* What the CPU and the operating system can run, asked before a kernel module is loaded; who
 * made the CPU and how to prefetch; and which compiler built this. Each has one answer per
 * platform. Refuses 32 bits. */

#ifndef ZDLFAST_CPU_H
#define ZDLFAST_CPU_H

#include "_float.h"

/* There is no NumPy of today for 32 bits to compare with, so nothing was ever run there. */
#if !defined(_WIN64) && !(defined(__SIZEOF_POINTER__) && __SIZEOF_POINTER__ == 8)
#error "zdlfast needs a 64-bit CPU and operating system; zdlfast.reference does without kernels"
#endif

#if defined(__x86_64__) || defined(_M_X64)
#define ZDL_X86_64 1
#else
#define ZDL_X86_64 0
#endif

/* A module may be loaded if it was built (setup.py defines ZDL_BUILT_...) and if the CPU and the
 * operating system have all that its compiler flags allow. */
#ifndef ZDL_BUILT_AVX2
#define ZDL_BUILT_AVX2 0
#endif
#ifndef ZDL_BUILT_AVX512
#define ZDL_BUILT_AVX512 0
#endif

#if !ZDL_X86_64

static int zdl_cpu_has_avx2(void) { return 0; }
static int zdl_cpu_has_avx512(void) { return 0; }

#elif defined(_MSC_VER)

#include <immintrin.h>
#include <intrin.h>
enum {
    ZDL_FMA = 1 << 12, ZDL_OSXSAVE = 1 << 27, /* leaf 1, ECX */
    /* Leaf 7, EBX. /arch:AVX2 is AVX2 with FMA, BMI1 and BMI2. */
    ZDL_AVX2 = 1 << 3 | 1 << 5 | 1 << 8,
    /* /arch:AVX512 adds F, DQ, CD, BW and VL. */
    ZDL_AVX512 = ZDL_AVX2 | 1 << 16 | 1 << 17 | 1 << 28 | 1 << 30 | (int)(1u << 31)
};
/* Whether the CPU has these features and the system saves these registers (of XCR0). */
static int zdl_cpu_has(int features, unsigned long long registers)
{
    int leaf[4]; /* EAX, EBX, ECX, EDX */
    __cpuid(leaf, 0);
    if (leaf[0] < 7)
        return 0;
    __cpuid(leaf, 1);
    if (!(leaf[2] & ZDL_FMA) || !(leaf[2] & ZDL_OSXSAVE))
        return 0;
    if ((_xgetbv(0) & registers) != registers)
        return 0;
    __cpuidex(leaf, 7, 0);
    return (leaf[1] & features) == features;
}
static int zdl_cpu_has_avx2(void) { return zdl_cpu_has(ZDL_AVX2, 0x6); }
static int zdl_cpu_has_avx512(void) { return zdl_cpu_has(ZDL_AVX512, 0xE6); }

#elif defined(__APPLE__)

#include <sys/sysctl.h>
/* macOS switches AVX-512 on when a thread first uses it, so XCR0 does not show it. */
static int zdl_sysctl(const char *name)
{
    int value = 0;
    size_t size = sizeof value;
    return sysctlbyname(name, &value, &size, 0, 0) == 0 && value != 0;
}
static int zdl_cpu_has_avx2(void) { return zdl_sysctl("hw.optional.avx2_0"); }
static int zdl_cpu_has_avx512(void)
{
    return zdl_sysctl("hw.optional.avx512f") && zdl_sysctl("hw.optional.avx512bw")
        && zdl_sysctl("hw.optional.avx512dq") && zdl_sysctl("hw.optional.avx512vl");
}

#else

static int zdl_cpu_has_avx2(void)
{
    __builtin_cpu_init();
    return __builtin_cpu_supports("avx2") != 0;
}
static int zdl_cpu_has_avx512(void)
{
    __builtin_cpu_init();
    return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw")
        && __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
}

#endif

#if ZDL_X86_64

#if defined(_MSC_VER)
#include <intrin.h>
#else
#include <cpuid.h>
#endif
#include <string.h>

static int zdl_is_intel(void)
{
    unsigned leaf[4] = {0}; /* EAX, EBX, ECX, EDX */
#if defined(_MSC_VER)
    __cpuid((int *)leaf, 0);
#else
    __get_cpuid(0, &leaf[0], &leaf[1], &leaf[2], &leaf[3]);
#endif
    return memcmp(&leaf[1], "GenuntelineI", 12) == 0; /* "GenuineIntel", in this order */
}

#else

static int zdl_is_intel(void) { return 0; }

#endif

static int zdl_has_avx2(void) { return ZDL_BUILT_AVX2 && zdl_cpu_has_avx2(); }
static int zdl_has_avx512(void) { return ZDL_BUILT_AVX512 && zdl_cpu_has_avx512(); }

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
