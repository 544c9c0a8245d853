// prelude.metal for CUDA.
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#define SHARED(T, name, n) __shared__ T name[n]
#define BARRIER() __syncthreads()
#define UNROLL _Pragma("unroll")
#define ROLLED _Pragma("unroll 1")
#define LOAD4(array, i) (reinterpret_cast<const uint4*>(array)[i])
#define WRITE(array, T, i, x) const_cast<T*>(array)[i] = T(x)
#define AS_WORDS(array) reinterpret_cast<uint*>(array)
#define TABLE(name, array, i) const uint4 name = LOAD4(array, i)
#define PICKED(name, x) picked(name, x)
typedef unsigned int uint;
typedef signed char i8;
typedef unsigned char u8;
typedef unsigned short u16;
typedef __nv_bfloat16 bfloat;
__device__ inline float simd_sum(float x) {
  for (int i = 16; i > 0; i /= 2) x += __shfl_xor_sync(0xffffffff, x, i);
  return x;
}
__device__ inline float simd_max(float x) {
  for (int i = 16; i > 0; i /= 2) x = fmaxf(x, __shfl_xor_sync(0xffffffff, x, i));
  return x;
}
__device__ inline float lanes_sum(float x, uint n) {
  for (int i = n / 2; i > 0; i /= 2) x += __shfl_xor_sync(0xffffffff, x, i);
  return x;
}
__device__ inline float lanes_max(float x, uint n) {
  for (int i = n / 2; i > 0; i /= 2) x = fmaxf(x, __shfl_xor_sync(0xffffffff, x, i));
  return x;
}
__device__ inline float simd_shuffle(float x, uint from) { return __shfl_sync(0xffffffff, x, from); }
__device__ inline float float_bits(uint bits) { return __uint_as_float(bits); }
__device__ inline float half_bits(uint bits) { return __half2float(__ushort_as_half((unsigned short)bits)); }
__device__ inline uint half_pair(float low, float high) {
  uint pair;
  asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(pair) : "f"(high), "f"(low));
  return pair;
}
__device__ inline uint bfloat_pair(float low, float high) {
  uint pair;
  asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(pair) : "f"(high), "f"(low));
  return pair;
}
__device__ inline float pair_low(uint pair) { return half_bits(pair & 0xffff); }
__device__ inline float pair_high(uint pair) { return half_bits(pair >> 16); }
__device__ inline uint pair_fma(uint a, uint b, uint c) {
  uint d;
  asm("fma.rn.f16x2 %0, %1, %2, %3;" : "=r"(d) : "r"(a), "r"(b), "r"(c));
  return d;
}
__device__ inline uint masked(uint a, uint mask, uint b) {
  uint c;
  asm("lop3.b32 %0, %1, %2, %3, 0xea;" : "=r"(c) : "r"(a), "r"(mask), "r"(b));
  return c;
}
__device__ inline uint bytes_low(uint word) { return __byte_perm(word, 0x64646464, 0x4140); }
__device__ inline uint bytes_high(uint word) { return __byte_perm(word, 0x64646464, 0x4342); }
__device__ inline uint bytes_even(uint word) { return __byte_perm(word, 0x64646464, 0x4240); }
__device__ inline uint bytes_odd(uint word) { return __byte_perm(word, 0x64646464, 0x4341); }
__device__ inline uint zip_low(uint a, uint b) { return __byte_perm(a, b, 0x5140); }
__device__ inline uint zip_high(uint a, uint b) { return __byte_perm(a, b, 0x7362); }
__device__ inline uint zip_even(uint a, uint b) { return __byte_perm(a, b, 0x6240); }
__device__ inline uint zip_odd(uint a, uint b) { return __byte_perm(a, b, 0x7351); }
__device__ inline bool last_of(const uint* array, uint i, uint n) {
  __threadfence();
  const bool is = atomicInc(const_cast<uint*>(array) + i, n - 1) == n - 1;
  if (is) __threadfence();
  return is;
}
__device__ inline uint ones(uint word) { return __popc(word); }
__device__ inline uint picked(uint4 table, uint x) {
  const uint low = __byte_perm(table.x, table.y, x), high = __byte_perm(table.z, table.w, x);
  return __byte_perm(low, high, (x >> 1 & 0x4444) | 0x3210);
}
__device__ inline uint twice(half, uint bits) { return bits | bits << 16; }
__device__ inline uint twice(bfloat, uint bits) { return half_pair(float_bits(bits << 16), float_bits(bits << 16)); }
#define LAST(array, i, n) last_of(array, i, n)
#define exp(x) __expf(x)
#define MATRIX(n_wave)
#define MULTIPLY(sum, a0, a1, a2, a3, b0, b1)                                                              \
  asm("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, " \
      "{%0, %1, %2, %3};"                                                                                  \
      : "+f"((sum)[0]), "+f"((sum)[1]), "+f"((sum)[2]), "+f"((sum)[3])                                     \
      : "r"(a0), "r"(a1), "r"(a2), "r"(a3), "r"(b0), "r"(b1))
