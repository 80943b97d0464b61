/* Digesting large memory, and copying it in one go.
 *
 * One after the other, a large array is read twice from memory and its copy costs another read, as
 * a processor fetches what it is about to overwrite. Here each cache line is read once, goes into
 * the digest, and is written past the caches.
 *
 * The memory is cut into leaves, which some threads take turns at: two of them nearly use up what a
 * memory can deliver, and starting one takes a tenth of the time that it takes in Python.
 *
 * The digest of a leaf is XXH3-128 as xxhash computes it, without a seed and with the default
 * secret, for inputs of more than 240 bytes. Its specification:
 * https://github.com/Cyan4973/xxHash/blob/dev/doc/xxhash_spec.md
 *
 * For x86-64, where every processor has SSE2, and nearly every one AVX2. Elsewhere the module exists
 * and lacks the function.
 */

#define PY_SSIZE_T_CLEAN
#include <Python.h>

#if defined(__SSE2__) && defined(__SIZEOF_INT128__)

#include <immintrin.h>
#include <pthread.h>
#include <signal.h>
#include <stdint.h>
#include <string.h>

enum {
    STRIPE = 64,  /* what goes through the accumulators at once: a cache line */
    BLOCK = 1024, /* what goes between two scrambles: the secret is used up then */
    LANES = 8,    /* accumulators */
    LEAST = 241,  /* shorter inputs are digested otherwise */
    AHEAD = 1024, /* how far ahead of its use memory is asked for */
    DIGEST = 16,  /* bytes of one */
    MOST_THREADS = 8,
};

/* From this size on a copy is written past the caches: whoever reads it would not find it there. */
static const size_t STREAM_FROM = 8 << 20;

static const uint32_t P32_1 = 0x9E3779B1u, P32_2 = 0x85EBCA77u, P32_3 = 0xC2B2AE3Du;
static const uint64_t P64_1 = 0x9E3779B185EBCA87u, P64_2 = 0xC2B2AE3D27D4EB4Fu,
                      P64_3 = 0x165667B19E3779F9u, P64_4 = 0x85EBCA77C2B2AE63u,
                      P64_5 = 0x27D4EB2F165667C5u, AVALANCHE = 0x165667919E3779F9u;

static const unsigned char SECRET[192] = {
    0xb8, 0xfe, 0x6c, 0x39, 0x23, 0xa4, 0x4b, 0xbe, 0x7c, 0x01, 0x81, 0x2c, 0xf7, 0x21, 0xad, 0x1c,
    0xde, 0xd4, 0x6d, 0xe9, 0x83, 0x90, 0x97, 0xdb, 0x72, 0x40, 0xa4, 0xa4, 0xb7, 0xb3, 0x67, 0x1f,
    0xcb, 0x79, 0xe6, 0x4e, 0xcc, 0xc0, 0xe5, 0x78, 0x82, 0x5a, 0xd0, 0x7d, 0xcc, 0xff, 0x72, 0x21,
    0xb8, 0x08, 0x46, 0x74, 0xf7, 0x43, 0x24, 0x8e, 0xe0, 0x35, 0x90, 0xe6, 0x81, 0x3a, 0x26, 0x4c,
    0x3c, 0x28, 0x52, 0xbb, 0x91, 0xc3, 0x00, 0xcb, 0x88, 0xd0, 0x65, 0x8b, 0x1b, 0x53, 0x2e, 0xa3,
    0x71, 0x64, 0x48, 0x97, 0xa2, 0x0d, 0xf9, 0x4e, 0x38, 0x19, 0xef, 0x46, 0xa9, 0xde, 0xac, 0xd8,
    0xa8, 0xfa, 0x76, 0x3f, 0xe3, 0x9c, 0x34, 0x3f, 0xf9, 0xdc, 0xbb, 0xc7, 0xc7, 0x0b, 0x4f, 0x1d,
    0x8a, 0x51, 0xe0, 0x4b, 0xcd, 0xb4, 0x59, 0x31, 0xc8, 0x9f, 0x7e, 0xc9, 0xd9, 0x78, 0x73, 0x64,
    0xea, 0xc5, 0xac, 0x83, 0x34, 0xd3, 0xeb, 0xc3, 0xc5, 0x81, 0xa0, 0xff, 0xfa, 0x13, 0x63, 0xeb,
    0x17, 0x0d, 0xdd, 0x51, 0xb7, 0xf0, 0xda, 0x49, 0xd3, 0x16, 0x55, 0x26, 0x29, 0xd4, 0x68, 0x9e,
    0x2b, 0x16, 0xbe, 0x58, 0x7d, 0x47, 0xa1, 0xfc, 0x8f, 0xf8, 0xb8, 0xd1, 0x7a, 0xd0, 0x31, 0xce,
    0x45, 0xcb, 0x3a, 0x8f, 0x95, 0x16, 0x04, 0x28, 0xaf, 0xd7, 0xfb, 0xca, 0xbb, 0x4b, 0x40, 0x7e,
};

/* Where in the secret the last stripe begins, and the two halves of the result. */
enum { LAST = 192 - STRIPE - 7, LOW = 11, HIGH = 192 - STRIPE - 11 };

static inline uint64_t word(const unsigned char *at)
{
    uint64_t value;
    memcpy(&value, at, sizeof value);
    return value;
}

/* What becomes of the memory besides being digested. */
typedef enum { ONLY_DIGESTED, COPIED, STREAMED } Way;

/* Digest whole blocks into the accumulators, and copy them to `out` if that is the way. */
typedef void Blocks(uint64_t acc[LANES], const unsigned char *in, unsigned char *out,
                    size_t blocks, Way way);

static inline __m128i vector(const unsigned char *at)
{
    return _mm_loadu_si128((const __m128i *)at);
}

static inline __m128i accumulated(__m128i acc, __m128i data, const unsigned char *secret)
{
    __m128i keyed = _mm_xor_si128(data, vector(secret));
    __m128i product = _mm_mul_epu32(keyed, _mm_srli_epi64(keyed, 32));
    __m128i swapped = _mm_shuffle_epi32(data, _MM_SHUFFLE(1, 0, 3, 2));
    return _mm_add_epi64(acc, _mm_add_epi64(product, swapped));
}

static inline __m128i scrambled(__m128i acc, const unsigned char *secret)
{
    const __m128i prime = _mm_set1_epi32((int)P32_1);
    __m128i mixed = _mm_xor_si128(acc, _mm_srli_epi64(acc, 47));
    mixed = _mm_xor_si128(mixed, vector(secret));
    __m128i high = _mm_mul_epu32(_mm_srli_epi64(mixed, 32), prime);
    return _mm_add_epi64(_mm_mul_epu32(mixed, prime), _mm_slli_epi64(high, 32));
}

/* `way` is a constant wherever this is inlined. */
static inline __attribute__((always_inline)) void blocks_sse2(uint64_t sums[LANES],
                                                              const unsigned char *in,
                                                              unsigned char *out, size_t blocks,
                                                              Way way)
{
    enum { WIDTH = sizeof(__m128i), VECTORS = STRIPE / WIDTH };
    __m128i acc[VECTORS];
    memcpy(acc, sums, STRIPE);
    for (size_t begin = 0; begin < blocks * BLOCK; begin += BLOCK) {
        for (size_t at = begin; at < begin + BLOCK; at += STRIPE) {
            _mm_prefetch((const char *)in + at + AHEAD, _MM_HINT_T0);
            for (int i = 0; i < VECTORS; i++) {
                __m128i data = vector(in + at + WIDTH * i);
                __m128i *to = (__m128i *)(out + at + WIDTH * i);
                if (way == STREAMED)
                    _mm_stream_si128(to, data);
                else if (way == COPIED)
                    _mm_storeu_si128(to, data);
                acc[i] = accumulated(acc[i], data, SECRET + (at - begin) / 8 + WIDTH * i);
            }
        }
        for (int i = 0; i < VECTORS; i++)
            acc[i] = scrambled(acc[i], SECRET + sizeof SECRET - STRIPE + WIDTH * i);
    }
    memcpy(sums, acc, STRIPE);
}

static void narrow_blocks(uint64_t sums[LANES], const unsigned char *in, unsigned char *out,
                          size_t blocks, Way way)
{
    if (way == ONLY_DIGESTED)
        blocks_sse2(sums, in, out, blocks, ONLY_DIGESTED);
    else if (way == STREAMED)
        blocks_sse2(sums, in, out, blocks, STREAMED);
    else
        blocks_sse2(sums, in, out, blocks, COPIED);
}

/* The same with vectors twice as wide, for which a copy in a cache takes no longer than memcpy. */
#define AVX2 __attribute__((target("avx2")))

AVX2 static inline __m256i wide_vector(const unsigned char *at)
{
    return _mm256_loadu_si256((const __m256i *)at);
}

AVX2 static inline __m256i wide_accumulated(__m256i acc, __m256i data, const unsigned char *secret)
{
    __m256i keyed = _mm256_xor_si256(data, wide_vector(secret));
    __m256i product = _mm256_mul_epu32(keyed, _mm256_srli_epi64(keyed, 32));
    __m256i swapped = _mm256_shuffle_epi32(data, _MM_SHUFFLE(1, 0, 3, 2));
    return _mm256_add_epi64(acc, _mm256_add_epi64(product, swapped));
}

AVX2 static inline __m256i wide_scrambled(__m256i acc, const unsigned char *secret)
{
    const __m256i prime = _mm256_set1_epi32((int)P32_1);
    __m256i mixed = _mm256_xor_si256(acc, _mm256_srli_epi64(acc, 47));
    mixed = _mm256_xor_si256(mixed, wide_vector(secret));
    __m256i high = _mm256_mul_epu32(_mm256_srli_epi64(mixed, 32), prime);
    return _mm256_add_epi64(_mm256_mul_epu32(mixed, prime), _mm256_slli_epi64(high, 32));
}

AVX2 static inline __attribute__((always_inline)) void blocks_avx2(uint64_t sums[LANES],
                                                                   const unsigned char *in,
                                                                   unsigned char *out,
                                                                   size_t blocks, Way way)
{
    enum { WIDTH = sizeof(__m256i), VECTORS = STRIPE / WIDTH };
    __m256i acc[VECTORS];
    memcpy(acc, sums, STRIPE);
    for (size_t begin = 0; begin < blocks * BLOCK; begin += BLOCK) {
        for (size_t at = begin; at < begin + BLOCK; at += STRIPE) {
            _mm_prefetch((const char *)in + at + AHEAD, _MM_HINT_T0);
            for (int i = 0; i < VECTORS; i++) {
                __m256i data = wide_vector(in + at + WIDTH * i);
                __m256i *to = (__m256i *)(out + at + WIDTH * i);
                if (way == STREAMED)
                    _mm256_stream_si256(to, data);
                else if (way == COPIED)
                    _mm256_storeu_si256(to, data);
                acc[i] = wide_accumulated(acc[i], data, SECRET + (at - begin) / 8 + WIDTH * i);
            }
        }
        for (int i = 0; i < VECTORS; i++)
            acc[i] = wide_scrambled(acc[i], SECRET + sizeof SECRET - STRIPE + WIDTH * i);
    }
    memcpy(sums, acc, STRIPE);
}

AVX2 static void wide_blocks(uint64_t sums[LANES], const unsigned char *in, unsigned char *out,
                             size_t blocks, Way way)
{
    if (way == ONLY_DIGESTED)
        blocks_avx2(sums, in, out, blocks, ONLY_DIGESTED);
    else if (way == STREAMED)
        blocks_avx2(sums, in, out, blocks, STREAMED);
    else
        blocks_avx2(sums, in, out, blocks, COPIED);
}

/* One stripe that is in no whole block. */
static void digest_stripe(uint64_t sums[LANES], const unsigned char *in,
                          const unsigned char *secret)
{
    for (int at = 0; at < STRIPE; at += sizeof(__m128i)) {
        __m128i *acc = (__m128i *)((unsigned char *)sums + at);
        _mm_storeu_si128(acc,
                         accumulated(_mm_loadu_si128(acc), vector(in + at), secret + at));
    }
}

static inline uint64_t folded_product(uint64_t a, uint64_t b)
{
    unsigned __int128 product = (unsigned __int128)a * b;
    return (uint64_t)product ^ (uint64_t)(product >> 64);
}

/* Write one half of the result, big-endian. */
static void finish(unsigned char *digest, const uint64_t sums[LANES], const unsigned char *secret,
                   uint64_t half)
{
    for (int i = 0; i < LANES; i += 2)
        half += folded_product(sums[i] ^ word(secret + 8 * i), sums[i + 1] ^ word(secret + 8 * i + 8));
    half ^= half >> 37;
    half *= AVALANCHE;
    half ^= half >> 32;
    for (int i = 0; i < 8; i++)
        digest[i] = (unsigned char)(half >> (56 - 8 * i));
}

static void digest_leaf(const unsigned char *in, unsigned char *out, size_t nbytes, Way way,
                        Blocks *digest_blocks, unsigned char *digest)
{
    uint64_t sums[LANES] = {P32_3, P64_1, P64_2, P64_3, P64_4, P32_2, P64_5, P32_1};
    /* At least one byte is left for the last stripe, which has a secret of its own. */
    size_t blocks = (nbytes - 1) / BLOCK, done = blocks * BLOCK;
    /* Only aligned vectors can be written past the caches. */
    digest_blocks(sums, in, out, blocks, way == STREAMED && (uintptr_t)out % 32 ? COPIED : way);
    for (size_t at = done; at + STRIPE < nbytes; at += STRIPE)
        digest_stripe(sums, in + at, SECRET + (at - done) / 8);
    digest_stripe(sums, in + nbytes - STRIPE, SECRET + LAST);
    if (way != ONLY_DIGESTED)
        memcpy(out + done, in + done, nbytes - done);
    if (way == STREAMED)
        _mm_sfence();
    finish(digest, sums, SECRET + HIGH, ~(nbytes * P64_2));
    finish(digest + DIGEST / 2, sums, SECRET + LOW, nbytes * P64_1);
}

/* Memory, cut into leaves that several threads take turns at. */
typedef struct {
    const unsigned char *in;
    unsigned char *out;
    size_t nbytes;
    Way way;
    Blocks *digest_blocks;
    size_t leaf;
    size_t leaves;
    unsigned char *digests;
    size_t next; /* the first leaf that nobody has begun */
} Work;

static void *take_turns(void *argument)
{
    Work *work = argument;
    size_t leaf;
    while ((leaf = __atomic_fetch_add(&work->next, 1, __ATOMIC_RELAXED)) < work->leaves) {
        size_t begin = leaf * work->leaf, left = work->nbytes - begin;
        unsigned char *out = work->way == ONLY_DIGESTED ? NULL : work->out + begin;
        digest_leaf(work->in + begin, out, left < work->leaf ? left : work->leaf, work->way,
                    work->digest_blocks, work->digests + leaf * DIGEST);
    }
    return NULL;
}

/* The caller is one of the threads, and all of them where no more can be had. */
static void work_with(Work *work, int threads)
{
    pthread_t helpers[MOST_THREADS];
    int started = 0;
    sigset_t all, before;
    /* Signals are for the threads that Python knows of. */
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    while (started < threads - 1 &&
           pthread_create(&helpers[started], NULL, take_turns, work) == 0)
        started++;
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    take_turns(work);
    while (started)
        pthread_join(helpers[--started], NULL);
}

static PyObject *digest_buffers(const Py_buffer *source, const Py_buffer *target, Py_ssize_t leaf,
                                int threads, int narrow)
{
    Py_ssize_t nbytes = source->len;
    if (leaf < LEAST || nbytes < LEAST || (nbytes % leaf && nbytes % leaf < LEAST))
        return PyErr_Format(PyExc_ValueError,
                            "%zd bytes in leaves of %zd: each has to have %d at least", nbytes,
                            leaf, LEAST);
    if (target->obj != NULL && target->len != nbytes)
        return PyErr_Format(PyExc_ValueError, "cannot copy %zd bytes to %zd", nbytes, target->len);
    Work work = {
        .in = source->buf,
        .out = target->buf,
        .nbytes = (size_t)nbytes,
        .leaf = (size_t)leaf,
        .leaves = (size_t)((nbytes - 1) / leaf + 1),
        .digest_blocks =
            !narrow && __builtin_cpu_supports("avx2") ? wide_blocks : narrow_blocks,
    };
    work.way = target->obj == NULL ? ONLY_DIGESTED : work.nbytes < STREAM_FROM ? COPIED : STREAMED;
    PyObject *digests = PyBytes_FromStringAndSize(NULL, (Py_ssize_t)work.leaves * DIGEST);
    if (digests == NULL)
        return NULL;
    work.digests = (unsigned char *)PyBytes_AS_STRING(digests);
    Py_BEGIN_ALLOW_THREADS
    work_with(&work, threads < MOST_THREADS ? threads : MOST_THREADS);
    Py_END_ALLOW_THREADS
    return digests;
}

static PyObject *digest_leaves(PyObject *Py_UNUSED(module), PyObject *args)
{
    Py_buffer source, target = {.obj = NULL};
    PyObject *into;
    Py_ssize_t leaf;
    int threads, narrow = 0;
    if (!PyArg_ParseTuple(args, "y*Oni|p:digest_leaves", &source, &into, &leaf, &threads,
                          &narrow))
        return NULL;
    PyObject *digests = NULL;
    if (into == Py_None || PyObject_GetBuffer(into, &target, PyBUF_WRITABLE) == 0)
        digests = digest_buffers(&source, &target, leaf, threads, narrow);
    if (target.obj != NULL)
        PyBuffer_Release(&target);
    PyBuffer_Release(&source);
    return digests;
}

static PyMethodDef methods[] = {
    {"digest_leaves", digest_leaves, METH_VARARGS,
     "digest_leaves(source, target, leaf, threads, narrow=False, /)\n--\n\n"
     "Cut flat memory into leaves of so many bytes; return their XXH3-128 digests, one after the\n"
     "other. Where `target` is not None it is flat memory of the same length, which the source is\n"
     "copied to, and does not overlap. A leaf, the last one too, has 241 bytes at least. Other\n"
     "threads go on meanwhile. With `narrow`, only what every x86-64 has is used."},
    {NULL, NULL, 0, NULL},
};

#else

static PyMethodDef methods[] = {{NULL, NULL, 0, NULL}};

#endif

static PyModuleDef_Slot slots[] = {
#if PY_VERSION_HEX >= 0x030C0000
    {Py_mod_multiple_interpreters, Py_MOD_PER_INTERPRETER_GIL_SUPPORTED},
#endif
#if PY_VERSION_HEX >= 0x030D0000
    {Py_mod_gil, Py_MOD_GIL_NOT_USED},
#endif
    {0, NULL},
};

static PyModuleDef definition = {
    PyModuleDef_HEAD_INIT,
    .m_name = "proxyflow.serialize._digestcopy",
    .m_doc = "Digesting large memory, and copying it in one go; see digestcopy.py.",
    .m_methods = methods,
    .m_slots = slots,
};

PyMODINIT_FUNC PyInit__digestcopy(void)
{
    return PyModuleDef_Init(&definition);
}
