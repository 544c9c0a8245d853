// What a kernel's text may use besides plain arithmetic, for Metal. A kernel is a function body over named arrays; the
// lines before it (see kernel::source) name its group, its lane and its wave.
//   SHARED(T, name, n)   an array of the threadgroup       BARRIER()  all its threads meet
//   UNROLL               before a loop of constant length
//   LOAD4(array, i)      16 bytes number i of an array of at least eight numbers
//   WRITE(array, T, i, x) a number of an input that is written in place, of at least eight numbers
//   AS_WORDS(array)         the words of an array of uint4 of the threadgroup
//   TABLE(name, array, i) the sixteen bytes number i of an array of words, for PICKED(name, x): four of them, by the first four
//                        nibbles of x      ones  how many bits of a word are set
//   masked(a, mask, b)   a & mask | b, in one step where a GPU has one
//   bytes_low, _high, _even, _odd  two bytes of a word (0 1, 2 3, 0 2, 1 3), each under 0x64: a pair of f16 that are 1024 more
//   zip_low, _high, _even, _odd    such bytes of two words in turn
//   ROLLED               before a loop of constant length that is to stay one
//   LAST(array, i, n)    whether this is the last of n groups that ask, by one thread each: what the others wrote before is there.
//                        Number i of the array, which is zero, counts them, and is zero again. Not for Metal, whose
//                        threadgroups do not see what others write
//   simd_sum, simd_max   over the 32 lanes of a wave       lanes_sum, lanes_max  over neighbours, a power of two of them
//   simd_shuffle         the number of another lane         half_bits, float_bits  an f16, an f32 from its bits
// A pair is two f16 in 32 bits, the first in the low half:
//   half_pair            two numbers rounded               pair_low, pair_high   and back
//   pair_fma             a * b + c                         bfloat_pair  a pair of bf16
//   twice                a number of the first argument's type, given by its bits, as a pair of it
//   MULTIPLY(sum, a0, a1, a2, a3, b0, b1), after MATRIX(n_wave)
//                        sum [16, 8] += a [16, 16] * b [16, 8], f16 summed in f32. Lane 4 r + c holds the pairs of a in rows
//                        r and r + 8 at columns 2 c (a0, a1) and 2 c + 8 (a2, a3), those of b in column r at rows 2 c and
//                        2 c + 8, and of sum rows r and r + 8 at columns 2 c and 2 c + 1.
#define SHARED(T, name, n) threadgroup T name[n]
#define BARRIER() threadgroup_barrier(mem_flags::mem_threadgroup)
#define UNROLL _Pragma("clang loop unroll(full)")
#define ROLLED _Pragma("clang loop unroll(disable)")
#define LOAD4(array, i) (((const device uint4*)(array))[i])
#define WRITE(array, T, i, x) ((device T*)(array))[i] = T(x)
#define AS_WORDS(array) ((threadgroup uint*)(array))
#define TABLE(name, array, i)                                \
  threadgroup uint name[4];                                  \
  if (lane < 4) name[lane] = array[4 * (i) + lane];          \
  BARRIER()
#define PICKED(name, x) picked(name, x)
typedef char i8;
typedef uchar u8;
typedef ushort u16;
inline float float_bits(uint bits) { return as_type<float>(bits); }
inline float half_bits(uint bits) { return float(as_type<half>(ushort(bits))); }
inline uint half_pair(float low, float high) { return as_type<uint>(half2(half(low), half(high))); }
inline uint bfloat_pair(float low, float high) {
  return uint(as_type<ushort>(bfloat(low))) | uint(as_type<ushort>(bfloat(high))) << 16;
}
inline float pair_low(uint pair) { return float(as_type<half2>(pair).x); }
inline float pair_high(uint pair) { return float(as_type<half2>(pair).y); }
inline uint pair_fma(uint a, uint b, uint c) {
  return as_type<uint>(fma(as_type<half2>(a), as_type<half2>(b), as_type<half2>(c)));
}
inline uint masked(uint a, uint mask, uint b) { return (a & mask) | b; }
inline uint bytes_low(uint word) { return (word & 255) | (word & 0xff00) << 8 | 0x64006400; }
inline uint bytes_high(uint word) { return bytes_low(word >> 16); }
inline uint bytes_even(uint word) { return (word & 0x00ff00ff) | 0x64006400; }
inline uint bytes_odd(uint word) { return bytes_even(word >> 8); }
inline uint zip_low(uint a, uint b) { return (a & 255) | (b & 255) << 8 | (a & 0xff00) << 8 | (b & 0xff00) << 16; }
inline uint zip_high(uint a, uint b) { return zip_low(a >> 16, b >> 16); }
inline uint zip_even(uint a, uint b) { return (a & 0x00ff00ff) | (b & 0x00ff00ff) << 8; }
inline uint zip_odd(uint a, uint b) { return zip_even(a >> 8, b >> 8); }
inline uint ones(uint word) { return popcount(word); }
inline uint picked(threadgroup const uint* table, uint x) {
  uint four = 0;
  for (uint i = 0; i < 4; i++) four |= (table[x >> (4 * i + 2) & 3] >> (8 * (x >> 4 * i & 3)) & 255) << 8 * i;
  return four;
}
inline uint twice(half, uint bits) { return bits | bits << 16; }
inline uint twice(bfloat, uint bits) { return half_pair(float_bits(bits << 16), float_bits(bits << 16)); }
inline float lanes_sum(float x, uint n) {
  for (ushort i = n / 2; i > 0; i /= 2) x += simd_shuffle_xor(x, i);
  return x;
}
inline float lanes_max(float x, uint n) {
  for (ushort i = n / 2; i > 0; i /= 2) x = max(x, simd_shuffle_xor(x, i));
  return x;
}
// Through the threadgroup's memory: how a simdgroup matrix lies in lanes is not documented.
#define MATRIX(n)                     \
  threadgroup uint matrix_a[n][128]; \
  threadgroup uint matrix_b[n][64];  \
  threadgroup float matrix_c[n][128];
#define MULTIPLY(sum, a0, a1, a2, a3, b0, b1) \
  multiply(sum, uint4(a0, a1, a2, a3), uint2(b0, b1), matrix_a[wave], matrix_b[wave], matrix_c[wave], lane)
inline void multiply(
    thread float* sum, uint4 a, uint2 b, threadgroup uint* ma, threadgroup uint* mb, threadgroup float* mc, uint lane) {
  const uint r = lane / 4, c = lane % 4;
  ma[8 * r + c] = a.x;
  ma[8 * (r + 8) + c] = a.y;
  ma[8 * r + c + 4] = a.z;
  ma[8 * (r + 8) + c + 4] = a.w;
  mb[8 * r + c] = b.x;
  mb[8 * r + c + 4] = b.y;
  simdgroup_barrier(mem_flags::mem_threadgroup);
  for (uint i = 0; i < 2; i++) {
    simdgroup_float8x8 out = make_filled_simdgroup_matrix<float, 8, 8>(0.0f);
    for (uint k = 0; k < 2; k++) {
      simdgroup_half8x8 left, right;
      simdgroup_load(left, (threadgroup half*)ma + 128 * i + 8 * k, 16);
      simdgroup_load(right, (threadgroup half*)mb + 8 * k, 16, 0, true);
      simdgroup_multiply_accumulate(out, left, right, out);
    }
    simdgroup_store(out, mc + 64 * i, 8);
  }
  simdgroup_barrier(mem_flags::mem_threadgroup);
  for (uint i = 0; i < 4; i++) sum[i] += mc[8 * (r + 8 * (i / 2)) + 2 * c + i % 2];
  simdgroup_barrier(mem_flags::mem_threadgroup);
}
