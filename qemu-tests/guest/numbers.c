/* What a processor computes, as bit patterns and sums: the same file runs on the host and in guests, and the outputs are compared.
 *
 * Arguments name the extensions that are to be used ("sse3" ...); SSE2 and the x87 always are. Nothing here asks CPUID, and nothing
 * depends on addresses or time. Inputs are special values and a fixed pseudo-random sequence.
 */
#include <fenv.h>
#include <immintrin.h>
#include <math.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static uint64_t hash;

/* FNV-1a, which any wrong bit changes. */
static void add(const void *data, size_t length)
{
    const unsigned char *bytes = data;
    for (size_t i = 0; i < length; i++)
        hash = (hash ^ bytes[i]) * 0x100000001b3u;
}

static void report(const char *name)
{
    printf("%s %016llx\n", name, (unsigned long long)hash);
    hash = 0xcbf29ce484222325u;
}

static uint64_t state = 0x9e3779b97f4a7c15u;

static uint64_t next(void)
{
    state ^= state << 13;
    state ^= state >> 7;
    state ^= state << 17;
    return state;
}

#define COUNT 48

static double doubles[COUNT];
static float floats[COUNT];
static long double longs[COUNT];

/* Signed zeros, infinities, quiet and signalling NaNs, denormals and neighbours of limits come first, then numbers of all sizes. */
static void fill(void)
{
    static const uint64_t special[] = {
        0, 0x8000000000000000, 0x3ff0000000000000, 0xbff0000000000000, 0x7ff0000000000000, 0xfff0000000000000,
        0x7ff8000000000001, 0x7ff0000000000001, 0xfff8000000000000, 1, 0x800fffffffffffff, 0x0010000000000000,
        0x7fefffffffffffff, 0x43e0000000000000, 0xc3e0000000000001, 0x41dfffffffc00000, 0x3fe0000000000000, 0x4330000000000001,
    };
    static const uint32_t narrow[] = {
        0, 0x80000000, 0x3f800000, 0xbf800000, 0x7f800000, 0xff800000, 0x7fc00001, 0x7f800001, 0xffc00000,
        1, 0x807fffff, 0x00800000, 0x7f7fffff, 0x5f000000, 0xdf000001, 0x4effffff, 0x3f000000, 0x4b000001,
    };
    const int known = sizeof special / sizeof *special;
    for (int i = 0; i < COUNT; i++) {
        uint64_t bits = i < known ? special[i] : next();
        uint32_t small = i < known ? narrow[i] : (uint32_t)next();
        if (i >= 34) {
            /* Numbers of ordinary size. */
            bits = (bits & 0x800fffffffffffff) | (0x3f8 + next() % 16) << 52;
            small = (small & 0x807fffff) | (uint32_t)(0x78 + next() % 16) << 23;
        }
        memcpy(&doubles[i], &bits, 8);
        memcpy(&floats[i], &small, 4);
        longs[i] = doubles[i];
        if (i >= known) {
            uint64_t mantissa = next() | 0x8000000000000000;
            uint16_t exponent = (uint16_t)(0x3ff0 + next() % 32) | (uint16_t)(next() & 0x8000);
            memcpy(&longs[i], &mantissa, 8);
            memcpy((char *)&longs[i] + 8, &exponent, 2);
        }
    }
}

static void add_double(double value) { add(&value, sizeof value); }
static void add_float(float value) { add(&value, sizeof value); }
static void add_long(long double value) { add(&value, 10); }
static void add_flags(void)
{
    unsigned csr = _mm_getcsr();
    add(&csr, sizeof csr);
    _mm_setcsr(csr & ~0x3fu);
}

static void scalars(void)
{
    for (int i = 0; i < COUNT; i++) {
        volatile double a = doubles[i];
        volatile float x = floats[i];
        add_double(sqrt(a));
        add_float(sqrtf(x));
        add_double((double)x);
        add_float((float)a);
        add_flags();
        int32_t words[4] = { _mm_cvtsd_si32(_mm_set_sd(a)), _mm_cvttsd_si32(_mm_set_sd(a)), _mm_cvtss_si32(_mm_set_ss(x)),
                             _mm_cvttss_si32(_mm_set_ss(x)) };
        int64_t longer[4] = { _mm_cvtsd_si64(_mm_set_sd(a)), _mm_cvttsd_si64(_mm_set_sd(a)), _mm_cvtss_si64(_mm_set_ss(x)),
                              _mm_cvttss_si64(_mm_set_ss(x)) };
        add(words, sizeof words);
        add(longer, sizeof longer);
        add_flags();
        for (int j = 0; j < COUNT; j++) {
            volatile double b = doubles[j];
            volatile float y = floats[j];
            add_double(a + b);
            add_double(a - b);
            add_double(a * b);
            add_double(a / b);
            add_float(x + y);
            add_float(x - y);
            add_float(x * y);
            add_float(x / y);
            int order[] = { a < b, a <= b, a == b, a != b, x < y, x <= y, x == y, x != y };
            add(order, sizeof order);
            add_flags();
        }
    }
}

static void vectors(void)
{
    for (int i = 0; i + 4 <= COUNT; i += 2) {
        for (int j = 0; j + 4 <= COUNT; j += 2) {
            __m128 a = _mm_loadu_ps(floats + i), b = _mm_loadu_ps(floats + j);
            __m128d c = _mm_loadu_pd(doubles + i), d = _mm_loadu_pd(doubles + j);
            __m128 singles[] = {
                _mm_add_ps(a, b), _mm_sub_ps(a, b), _mm_mul_ps(a, b), _mm_div_ps(a, b), _mm_min_ps(a, b), _mm_max_ps(a, b),
                _mm_sqrt_ps(a), _mm_cmplt_ps(a, b), _mm_cmpunord_ps(a, b), _mm_cmpnle_ps(a, b), _mm_shuffle_ps(a, b, 0x4e),
                _mm_unpacklo_ps(a, b), _mm_movehl_ps(a, b), _mm_cvtpd_ps(c), _mm_cvtepi32_ps(_mm_castps_si128(a)),
            };
            __m128d pairs[] = {
                _mm_add_pd(c, d), _mm_sub_pd(c, d), _mm_mul_pd(c, d), _mm_div_pd(c, d), _mm_min_pd(c, d), _mm_max_pd(c, d),
                _mm_sqrt_pd(c), _mm_cmpeq_pd(c, d), _mm_cmpord_pd(c, d), _mm_cmpnlt_pd(c, d), _mm_shuffle_pd(c, d, 1),
                _mm_unpackhi_pd(c, d), _mm_cvtps_pd(a), _mm_cvtepi32_pd(_mm_castpd_si128(c)),
            };
            __m128i integers[] = { _mm_cvtps_epi32(a), _mm_cvttps_epi32(a), _mm_cvtpd_epi32(c), _mm_cvttpd_epi32(c) };
            int masks[] = { _mm_movemask_ps(a), _mm_movemask_pd(d) };
            add(singles, sizeof singles);
            add(pairs, sizeof pairs);
            add(integers, sizeof integers);
            add(masks, sizeof masks);
            add_flags();
        }
    }
}

static __m128i random_vector(void)
{
    return _mm_set_epi64x((long long)next(), (long long)next());
}

static void integers(void)
{
    for (int i = 0; i < 400; i++) {
        __m128i a = random_vector(), b = random_vector();
        __m128i few = _mm_cvtsi32_si128((int)(next() % 70));
        __m128i all[] = {
            _mm_add_epi8(a, b), _mm_adds_epi8(a, b), _mm_adds_epu16(a, b), _mm_sub_epi64(a, b), _mm_subs_epu8(a, b),
            _mm_mullo_epi16(a, b), _mm_mulhi_epi16(a, b), _mm_mulhi_epu16(a, b), _mm_madd_epi16(a, b), _mm_mul_epu32(a, b),
            _mm_sad_epu8(a, b), _mm_avg_epu8(a, b), _mm_avg_epu16(a, b), _mm_min_epu8(a, b), _mm_max_epi16(a, b),
            _mm_cmpeq_epi8(a, b), _mm_cmpgt_epi16(a, b), _mm_cmpgt_epi32(a, b), _mm_packs_epi16(a, b), _mm_packus_epi16(a, b),
            _mm_packs_epi32(a, b), _mm_unpacklo_epi8(a, b), _mm_unpackhi_epi16(a, b), _mm_unpacklo_epi64(a, b), _mm_sll_epi16(a, few),
            _mm_srl_epi32(a, few), _mm_sra_epi32(a, few), _mm_sll_epi64(a, few), _mm_slli_si128(a, 5), _mm_srli_si128(a, 11),
            _mm_shuffle_epi32(a, 0x1b), _mm_shufflehi_epi16(a, 0x93), _mm_shufflelo_epi16(a, 0x39), _mm_and_si128(a, b),
            _mm_andnot_si128(a, b), _mm_xor_si128(a, b), _mm_insert_epi16(a, (int)(short)i, 3),
        };
        add(all, sizeof all);
        int out[] = { _mm_movemask_epi8(a), _mm_extract_epi16(b, 6) };
        add(out, sizeof out);
    }
}

static void masked(void)
{
    static const int modes[] = { FE_TONEAREST, FE_DOWNWARD, FE_UPWARD, FE_TOWARDZERO };
    for (int mode = 0; mode < 4; mode++) {
        /* Denormals as they are, taken for zero, flushed to it, both. */
        for (int zeros = 0; zeros < 4; zeros++) {
            fesetround(modes[mode]);
            _mm_setcsr((_mm_getcsr() & ~0x8040u) | (zeros & 1 ? 0x40u : 0) | (zeros & 2 ? 0x8000u : 0));
            scalars();
            vectors();
            char name[32];
            snprintf(name, sizeof name, "sse mode %d.%d", mode, zeros);
            _mm_setcsr(0x1f80);
            fesetround(FE_TONEAREST);
            report(name);
        }
    }
}

static void set_control(uint16_t word)
{
    __asm__ volatile("fldcw %0" : : "m"(word));
}

static void add_status(void)
{
    uint16_t status;
    __asm__ volatile("fnstsw %0\n\tfnclex" : "=m"(status));
    /* The stack's top and the condition codes that are defined. */
    add(&status, sizeof status);
}

#define UNARY(text)                                                                                                          \
    for (int i = 0; i < COUNT; i++) {                                                                                        \
        long double value = longs[i];                                                                                        \
        __asm__ volatile(text : "+t"(value));                                                                                \
        add_long(value);                                                                                                     \
        add_status();                                                                                                        \
    }

static void x87(void)
{
    UNARY("fsqrt")
    UNARY("frndint")
    UNARY("fabs")
    UNARY("fchs")
    for (int i = 0; i < COUNT; i++) {
        for (int j = 0; j < COUNT; j++) {
            volatile long double a = longs[i], b = longs[j];
            add_long(a + b);
            add_long(a - b);
            add_long(a * b);
            add_long(a / b);
            add_status();
            long double x = a, y = b;
            __asm__ volatile("fprem" : "+t"(x) : "u"(y));
            add_long(x);
            x = a;
            __asm__ volatile("fprem1" : "+t"(x) : "u"(y));
            add_long(x);
            x = a;
            __asm__ volatile("fscale" : "+t"(x) : "u"(y));
            add_long(x);
            uint8_t order[3];
            __asm__ volatile("fcomi %4, %3\n\tseta %0\n\tsetb %1\n\tsetp %2"
                             : "=r"(order[0]), "=r"(order[1]), "=r"(order[2])
                             : "t"((long double)a), "f"((long double)b)
                             : "cc");
            add(order, sizeof order);
            add_status();
        }
        volatile long double a = longs[i];
        float single = (float)a;
        double twice = (double)a;
        add_float(single);
        add_double(twice);
        int16_t h;
        int32_t w;
        int64_t l;
        unsigned char decimal[10];
        long double value = a;
        __asm__ volatile("fists %0" : "=m"(h) : "t"(value));
        __asm__ volatile("fistl %0" : "=m"(w) : "t"(value));
        __asm__ volatile("fld %%st(0)\n\tfistpll %0" : "=m"(l) : "t"(value));
        __asm__ volatile("fld %%st(0)\n\tfbstp %0" : "=m"(decimal) : "t"(value));
        add(&h, sizeof h);
        add(&w, sizeof w);
        add(&l, sizeof l);
        add(decimal, sizeof decimal);
        add_status();
    }
}

static void x87_modes(void)
{
    /* Four ways to round, three precisions. */
    for (int mode = 0; mode < 4; mode++) {
        static const int precisions[] = { 0, 2, 3 };
        for (int i = 0; i < 3; i++) {
            set_control((uint16_t)(0x7f | precisions[i] << 8 | mode << 10));
            x87();
            char name[32];
            snprintf(name, sizeof name, "x87 mode %d.%d", mode, precisions[i]);
            set_control(0x37f);
            report(name);
        }
    }
}

static void transcendental(void)
{
    UNARY("fsin")
    UNARY("fcos")
    report("fsin fcos");
    UNARY("f2xm1")
    report("f2xm1");
    for (int i = 0; i < COUNT; i++) {
        long double a = longs[i], b;
        __asm__ volatile("fptan\n\tfstp %%st(0)" : "+t"(a));
        add_long(a);
        a = longs[i];
        __asm__ volatile("fxtract" : "=t"(a), "=u"(b) : "0"(a));
        add_long(a);
        add_long(b);
        add_status();
        for (int j = 0; j < COUNT; j++) {
            a = longs[i];
            b = longs[j];
            __asm__ volatile("fpatan" : "=t"(a) : "0"(a), "u"(b) : "st(1)");
            add_long(a);
            a = longs[i];
            __asm__ volatile("fyl2x" : "=t"(a) : "0"(a), "u"(b) : "st(1)");
            add_long(a);
            a = longs[i];
            __asm__ volatile("fyl2xp1" : "=t"(a) : "0"(a), "u"(b) : "st(1)");
            add_long(a);
            add_status();
        }
    }
    report("fptan fxtract fpatan fyl2x");
    long double constants[7];
    __asm__("fld1" : "=t"(constants[0]));
    __asm__("fldl2t" : "=t"(constants[1]));
    __asm__("fldl2e" : "=t"(constants[2]));
    __asm__("fldpi" : "=t"(constants[3]));
    __asm__("fldlg2" : "=t"(constants[4]));
    __asm__("fldln2" : "=t"(constants[5]));
    __asm__("fldz" : "=t"(constants[6]));
    for (int i = 0; i < 7; i++)
        add_long(constants[i]);
    report("constants");
}

static void library(void)
{
    double sum = 0;
    for (int i = 1; i <= 4000; i++) {
        double x = i / 128.0;
        sum += sin(x) * cos(x) + exp(-x) + log(x) + pow(x, 0.3) + atan2(x, 3) + tan(x) + cbrt(x) + erf(x) + lgamma(x);
        add_double(sum);
    }
    printf("library %.17g %a\n", sum, sum);
    report("library double");
    long double wide = 0;
    for (int i = 1; i <= 1000; i++) {
        long double x = i / 128.0L;
        wide += sinl(x) * cosl(x) + expl(-x) + logl(x) + powl(x, 0.3L) + atan2l(x, 3) + sqrtl(x) + fmodl(x, 0.7L);
        add_long(wide);
    }
    printf("library %.21Lg %La\n", wide, wide);
    report("library long double");
    /* Text and back. */
    for (int i = 0; i < 2000; i++) {
        double value;
        uint64_t bits = next() & 0xbfffffffffffffff;
        memcpy(&value, &bits, 8);
        char text[64];
        int length = snprintf(text, sizeof text, "%.17g", value);
        add(text, (size_t)length);
        double back = strtod(text, NULL);
        add_double(back);
        long double longer = strtold(text, NULL);
        add_long(longer);
    }
    report("text");
}

static void strings(void)
{
    static unsigned char from[3000], to[3000];
    for (size_t i = 0; i < sizeof from; i++)
        from[i] = (unsigned char)(next() % 255 + 1);
    for (int i = 0; i < 300; i++) {
        size_t start = next() % 64, length = next() % 2500, shift = next() % 64;
        memcpy(to + shift, from + start, length);
        memmove(to + shift / 2, to + shift, length);
        memset(to + shift, i, length / 3);
        to[2999] = 0;
        size_t found[] = { strlen((char *)to + start), (size_t)(strchr((char *)to, i % 255 + 1) != NULL) };
        add(found, sizeof found);
        int order = memcmp(from, to, length);
        order = (order > 0) - (order < 0);
        add(&order, sizeof order);
        add(to, sizeof to);
        /* The instructions, backwards too. */
        const unsigned char *source = from + start;
        unsigned char *destination = to + shift;
        size_t count = length;
        __asm__ volatile("rep movsb" : "+S"(source), "+D"(destination), "+c"(count) : : "memory");
        source = from + 2500;
        destination = to + 2600;
        count = length / 8;
        __asm__ volatile("std\n\trep movsq\n\tcld" : "+S"(source), "+D"(destination), "+c"(count) : : "memory");
        destination = to;
        count = 2990;
        __asm__ volatile("repne scasb" : "+D"(destination), "+c"(count) : "a"(i & 0xff) : "cc", "memory");
        add(&count, sizeof count);
        add(to, sizeof to);
    }
    report("strings");
}

static void words(void)
{
    for (int i = 0; i < 3000; i++) {
        uint64_t a = next(), b = next() | 1, high, low, quotient, rest;
        __asm__("mulq %3" : "=a"(low), "=d"(high) : "0"(a), "r"(b) : "cc");
        high %= b;
        __asm__("divq %4" : "=a"(quotient), "=d"(rest) : "0"(low), "1"(high), "r"(b) : "cc");
        int64_t divided = (int64_t)a / ((int64_t)b >> (a & 31));
        uint64_t all[] = { low, high, quotient, rest, (uint64_t)divided, (uint64_t)__builtin_bswap64(a),
                           (uint64_t)__builtin_ctzll(b), (uint64_t)__builtin_clzll(b), a << (b & 63) | a >> (-b & 63) };
        add(all, sizeof all);
        __int128 product = (__int128)(int64_t)a * (int64_t)b;
        __int128 share = product / (int64_t)(b >> 40 | 1);
        add(&product, sizeof product);
        add(&share, sizeof share);
    }
    report("words");
}

__attribute__((target("sse3"))) static void sse3(void)
{
    for (int i = 0; i + 4 <= COUNT; i++) {
        __m128 a = _mm_loadu_ps(floats + i), b = _mm_loadu_ps(floats + COUNT - 4 - i);
        __m128d c = _mm_loadu_pd(doubles + i), d = _mm_loadu_pd(doubles + COUNT - 4 - i);
        __m128 all[] = { _mm_addsub_ps(a, b), _mm_hadd_ps(a, b), _mm_hsub_ps(a, b), _mm_movehdup_ps(a), _mm_moveldup_ps(b) };
        __m128d pairs[] = { _mm_addsub_pd(c, d), _mm_hadd_pd(c, d), _mm_hsub_pd(c, d), _mm_movedup_pd(c) };
        add(all, sizeof all);
        add(pairs, sizeof pairs);
        int64_t cut;
        long double value = longs[i];
        __asm__ volatile("fisttpll %0" : "=m"(cut) : "t"(value) : "st");
        add(&cut, sizeof cut);
        add_flags();
    }
    __asm__ volatile("fnclex");
    report("sse3");
}

__attribute__((target("ssse3"))) static void ssse3(void)
{
    for (int i = 0; i < 400; i++) {
        __m128i a = random_vector(), b = random_vector();
        __m128i all[] = {
            _mm_shuffle_epi8(a, b), _mm_hadd_epi16(a, b), _mm_hadds_epi16(a, b), _mm_hsub_epi32(a, b), _mm_maddubs_epi16(a, b),
            _mm_mulhrs_epi16(a, b), _mm_sign_epi8(a, b), _mm_sign_epi32(a, b), _mm_abs_epi16(a), _mm_alignr_epi8(a, b, 7),
        };
        add(all, sizeof all);
    }
    report("ssse3");
}

__attribute__((target("sse4.1"))) static void sse41(void)
{
    for (int i = 0; i < 400; i++) {
        __m128i a = random_vector(), b = random_vector(), mask = random_vector();
        __m128i all[] = {
            _mm_blendv_epi8(a, b, mask), _mm_mullo_epi32(a, b), _mm_mul_epi32(a, b), _mm_min_epi8(a, b), _mm_max_epu32(a, b),
            _mm_packus_epi32(a, b), _mm_cmpeq_epi64(a, b), _mm_cvtepi8_epi64(a), _mm_cvtepu16_epi32(b), _mm_minpos_epu16(a),
            _mm_mpsadbw_epu8(a, b, 5), _mm_insert_epi32(a, i, 2), _mm_blend_epi16(a, b, 0xa5),
        };
        add(all, sizeof all);
        int out[] = { _mm_extract_epi8(a, 9), _mm_extract_epi32(b, 1), _mm_testz_si128(a, b), _mm_testc_si128(a, mask) };
        add(out, sizeof out);
    }
    for (int i = 0; i + 4 <= COUNT; i++) {
        __m128 a = _mm_loadu_ps(floats + i), b = _mm_loadu_ps(floats + COUNT - 4 - i);
        __m128d c = _mm_loadu_pd(doubles + i), d = _mm_loadu_pd(doubles + COUNT - 4 - i);
        __m128 all[] = { _mm_floor_ps(a), _mm_ceil_ps(a), _mm_round_ps(a, 0), _mm_round_ps(a, 11), _mm_dp_ps(a, b, 0x7d),
                         _mm_blendv_ps(a, b, b), _mm_insert_ps(a, b, 0x9a) };
        __m128d pairs[] = { _mm_floor_pd(c), _mm_round_pd(d, 4), _mm_dp_pd(c, d, 0x33), _mm_blend_pd(c, d, 2) };
        add(all, sizeof all);
        add(pairs, sizeof pairs);
        add_flags();
    }
    report("sse4_1");
}

__attribute__((target("sse4.2,popcnt"))) static void sse42(void)
{
    uint64_t sum = 0;
    for (int i = 0; i < 400; i++) {
        /* Few different bytes, so that strings match. */
        __m128i few = _mm_set1_epi8(3), a = _mm_and_si128(random_vector(), few), b = _mm_and_si128(random_vector(), few);
        int la = (int)(next() % 18), lb = (int)(next() % 18);
        int out[] = {
            _mm_cmpistri(a, b, 0x00), _mm_cmpistri(a, b, 0x0c), _mm_cmpistri(a, b, 0x18), _mm_cmpistri(a, b, 0x44),
            _mm_cmpestri(a, la, b, lb, 0x08), _mm_cmpestri(a, la, b, lb, 0x4d), _mm_cmpestri(a, la, b, lb, 0x3a),
            _mm_cmpistrc(a, b, 0x0c), _mm_cmpistrz(a, b, 0x08), _mm_cmpestrs(a, la, b, lb, 0x00), _mm_cmpestro(a, la, b, lb, 0x18),
            __builtin_popcountll(next()),
        };
        __m128i masks[] = { _mm_cmpistrm(a, b, 0x40), _mm_cmpestrm(a, la, b, lb, 0x4c), _mm_cmpgt_epi64(a, b) };
        add(out, sizeof out);
        add(masks, sizeof masks);
        sum = _mm_crc32_u64(sum, next());
        sum = _mm_crc32_u8((unsigned)sum, (unsigned char)i);
        add(&sum, sizeof sum);
    }
    report("sse4_2");
}

__attribute__((target("aes,sse2"))) static void aes(void)
{
    for (int i = 0; i < 200; i++) {
        __m128i a = random_vector(), b = random_vector();
        __m128i all[] = { _mm_aesenc_si128(a, b), _mm_aesenclast_si128(a, b), _mm_aesdec_si128(a, b), _mm_aesdeclast_si128(a, b),
                          _mm_aesimc_si128(a), _mm_aeskeygenassist_si128(a, 0x36) };
        add(all, sizeof all);
    }
    report("aes");
}

__attribute__((target("pclmul,sse2"))) static void pclmulqdq(void)
{
    for (int i = 0; i < 200; i++) {
        __m128i a = random_vector(), b = random_vector();
        __m128i all[] = { _mm_clmulepi64_si128(a, b, 0x00), _mm_clmulepi64_si128(a, b, 0x01), _mm_clmulepi64_si128(a, b, 0x10),
                          _mm_clmulepi64_si128(a, b, 0x11) };
        add(all, sizeof all);
    }
    report("pclmulqdq");
}

__attribute__((target("sha,sse4.1"))) static void sha(void)
{
    for (int i = 0; i < 200; i++) {
        __m128i a = random_vector(), b = random_vector(), c = random_vector();
        __m128i all[] = { _mm_sha1rnds4_epu32(a, b, 0), _mm_sha1rnds4_epu32(a, b, 1), _mm_sha1rnds4_epu32(a, b, 2),
                          _mm_sha1rnds4_epu32(a, b, 3), _mm_sha1nexte_epu32(a, b), _mm_sha1msg1_epu32(a, b),
                          _mm_sha1msg2_epu32(a, b), _mm_sha256rnds2_epu32(a, b, c), _mm_sha256msg1_epu32(a, b),
                          _mm_sha256msg2_epu32(a, b) };
        add(all, sizeof all);
    }
    report("sha");
}

int main(int count, char **names)
{
    static const struct {
        const char *name;
        void (*run)(void);
    } groups[] = {
        { "sse3", sse3 }, { "ssse3", ssse3 }, { "sse4_1", sse41 }, { "sse4_2", sse42 },
        { "aes", aes },   { "pclmulqdq", pclmulqdq }, { "sha_ni", sha },
    };
    hash = 0xcbf29ce484222325u;
    fill();
    words();
    strings();
    masked();
    integers();
    report("integers");
    x87_modes();
    transcendental();
    library();
    for (int i = 1; i < count; i++)
        for (size_t group = 0; group < sizeof groups / sizeof *groups; group++)
            if (strcmp(names[i], groups[group].name) == 0)
                groups[group].run();
    return 0;
}
