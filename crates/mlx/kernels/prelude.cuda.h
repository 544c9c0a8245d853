// prelude.metal for CUDA.
#include <cuda_fp16.h>
#define SHARED(T, name, n) __shared__ T name[n]
#define BARRIER() __syncthreads()
typedef unsigned int uint;
typedef signed char i8;
typedef unsigned char u8;
typedef unsigned short u16;
__device__ inline float simd_sum(float x) {
  for (int i = 16; i > 0; i /= 2) x += __shfl_xor_sync(0xffffffff, x, i);
  return x;
}
__device__ inline float simd_max(float x) {
  for (int i = 16; i > 0; i /= 2) x = fmaxf(x, __shfl_xor_sync(0xffffffff, x, i));
  return x;
}
__device__ inline float half_bits(uint bits) { return __half2float(__ushort_as_half((unsigned short)bits)); }
