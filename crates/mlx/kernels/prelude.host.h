// prelude.metal for a processor: a threadgroup's threads are fibers of one thread that take turns at barriers and at
// exchanges of a wave, so that a kernel which forgets a barrier reads what is not there yet.
#include <ucontext.h>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <functional>
#include <memory>
#include <vector>
#define SHARED(T, name, n) static T name[n]
#define BARRIER() fibers::group_barrier()
#define UNROLL
#define ROLLED
#define LOAD4(array, i) fibers::load4(array, i)
#define WRITE(array, T, i, x) const_cast<T*>(array)[i] = T(x)
#define AS_WORDS(array) reinterpret_cast<uint*>(array)
#define TABLE(name, array, i)                              \
  SHARED(uint, name, 4);                                   \
  if (lane < 4) name[lane] = array[4 * (i) + lane];        \
  BARRIER()
#define PICKED(name, x) picked(name, x)
#define LAST(array, i, n) last_of(array, i, n)
#define MATRIX(n_wave)
#define MULTIPLY(sum, ...) fibers::multiply(sum, {__VA_ARGS__})
typedef unsigned int uint;
typedef signed char i8;
typedef unsigned char u8;
typedef unsigned short u16;
using std::cos;
using std::exp;
using std::max;
using std::min;
using std::rint;
using std::sin;
using std::sqrt;
using std::tanh;
struct uint4 {
  uint x, y, z, w;
};

inline float float_bits(uint bits) {
  float number;
  std::memcpy(&number, &bits, 4);
  return number;
}
inline float half_bits(uint bits) {
  const uint sign = (bits & 0x8000) << 16, magnitude = bits & 0x7fff;
  float value;
  if (magnitude >= 0x7c00) {
    const uint word = 0x7f800000 | (magnitude & 0x3ff) << 13;
    std::memcpy(&value, &word, 4);
  } else {
    // Exponents are 112 apart: shifting and scaling by 2^112 is right for subnormals too.
    const uint word = magnitude << 13;
    std::memcpy(&value, &word, 4);
    value *= 5.192296858534828e33f;
  }
  uint word;
  std::memcpy(&word, &value, 4);
  word |= sign;
  std::memcpy(&value, &word, 4);
  return value;
}

// Rounded to the nearest, halves to even.
inline uint bits_of_half(float x) {
  uint word;
  std::memcpy(&word, &x, 4);
  const uint sign = word >> 16 & 0x8000, magnitude = word & 0x7fffffff;
  if (magnitude > 0x7f800000) return sign | 0x7e00;
  if (magnitude >= 0x477ff000) return sign | 0x7c00;
  // Numbers below 2^-14 are multiples of 2^-24, to which an addition of 0.5 rounds.
  if (magnitude < 0x38800000) {
    float shifted = std::fabs(x) + 0.5f;
    std::memcpy(&word, &shifted, 4);
    return sign | (word - 0x3f000000);
  }
  return sign | (magnitude - 0x38000000 + 0xfff + (magnitude >> 13 & 1)) >> 13;
}

struct half {
  uint16_t bits;
  half() = default;
  explicit half(float x) : bits(bits_of_half(x)) {}
  operator float() const { return half_bits(bits); }
};
inline uint bits_of_bfloat(float x) {
  uint word;
  std::memcpy(&word, &x, 4);
  return (word + 0x7fff + (word >> 16 & 1)) >> 16;
}

struct bfloat {
  uint16_t bits;
  bfloat() = default;
  explicit bfloat(float x) : bits(bits_of_bfloat(x)) {}
  operator float() const {
    const uint word = uint(bits) << 16;
    float value;
    std::memcpy(&value, &word, 4);
    return value;
  }
};

inline uint bfloat_pair(float low, float high) { return bits_of_bfloat(low) | bits_of_bfloat(high) << 16; }
inline float pair_low(uint pair) { return half_bits(pair & 0xffff); }
inline float pair_high(uint pair) { return half_bits(pair >> 16); }
inline uint half_pair(float low, float high) { return bits_of_half(low) | bits_of_half(high) << 16; }
inline uint pair_fma(uint a, uint b, uint c) {
  return half_pair(pair_low(a) * pair_low(b) + pair_low(c), pair_high(a) * pair_high(b) + pair_high(c));
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
inline bool last_of(const uint* array, uint i, uint n) {
  uint& counted = const_cast<uint*>(array)[i];
  counted = (counted + 1) % n;
  return counted == 0;
}
inline uint ones(uint word) { return __builtin_popcount(word); }
inline uint picked(const uint* table, uint x) {
  uint four = 0;
  for (uint i = 0; i < 4; i++) four |= (table[x >> (4 * i + 2) & 3] >> (8 * (x >> 4 * i & 3)) & 255) << 8 * i;
  return four;
}
inline uint twice(half, uint bits) { return bits | bits << 16; }
inline uint twice(bfloat, uint bits) {
  return half_pair(float_bits(bits << 16), float_bits(bits << 16));
}

namespace fibers {
struct Fiber {
  ucontext_t context;
  std::vector<char> stack;
  bool done = false;
};
struct Barrier {
  uint64_t generation = 0;
  uint n = 0;
};
inline std::vector<std::unique_ptr<Fiber>> all;
inline ucontext_t scheduler;
inline size_t current;
inline std::function<void(uint)> body;
inline Barrier group, waves[32];
inline float slots[32][32];

inline void pause() { swapcontext(&all[current]->context, &scheduler); }
inline void meet(Barrier& barrier, uint n) {
  const uint64_t generation = barrier.generation;
  if (++barrier.n == n) {
    barrier.n = 0;
    barrier.generation++;
  }
  while (barrier.generation == generation) pause();
}
inline void group_barrier() { meet(group, all.size()); }
inline void enter() {
  body(current);
  all[current]->done = true;
  pause();
}

// Runs `f(thread)` for every thread of a group.
inline void run(uint n_thread, std::function<void(uint)> f) {
  body = std::move(f);
  all.clear();
  for (uint i = 0; i < n_thread; i++) {
    auto fiber = std::make_unique<Fiber>();
    fiber->stack.resize(1 << 17);
    getcontext(&fiber->context);
    fiber->context.uc_stack.ss_sp = fiber->stack.data();
    fiber->context.uc_stack.ss_size = fiber->stack.size();
    fiber->context.uc_link = nullptr;
    makecontext(&fiber->context, enter, 0);
    all.push_back(std::move(fiber));
  }
  for (bool more = true; more;) {
    more = false;
    for (current = 0; current < all.size(); current++) {
      if (!all[current]->done) {
        more = true;
        swapcontext(&scheduler, &all[current]->context);
      }
    }
  }
}

template <class F>
float exchange(float x, F f) {
  const uint wave = current / 32, lane = current % 32;
  slots[wave][lane] = x;
  meet(waves[wave], 32);
  float result = slots[wave][0];
  for (uint i = 1; i < 32; i++) result = f(result, slots[wave][i]);
  meet(waves[wave], 32);
  return result;
}

template <class T>
uint4 load4(const T* array, uint i) {
  uint4 four;
  std::memcpy(&four, reinterpret_cast<const char*>(array) + 16 * size_t(i), 16);
  return four;
}

struct Pairs {
  uint a[4], b[2];
};
inline Pairs operands[32][32];
inline void multiply(float* sum, Pairs own) {
  const uint wave = current / 32, lane = current % 32;
  operands[wave][lane] = own;
  meet(waves[wave], 32);
  const Pairs* all = operands[wave];
  for (uint i = 0; i < 4; i++) {
    const uint row = lane / 4 + 8 * (i / 2), column = 2 * (lane % 4) + i % 2;
    for (uint k = 0; k < 16; k++) {
      const uint a = all[row % 8 * 4 + k % 8 / 2].a[row / 8 + 2 * (k / 8)], b = all[4 * column + k % 8 / 2].b[k / 8];
      sum[i] += k % 2 == 0 ? pair_low(a) * pair_low(b) : pair_high(a) * pair_high(b);
    }
  }
  meet(waves[wave], 32);
}
}  // namespace fibers

inline float simd_sum(float x) {
  return fibers::exchange(x, [](float a, float b) { return a + b; });
}
inline float simd_max(float x) {
  return fibers::exchange(x, [](float a, float b) { return a > b ? a : b; });
}
inline float simd_shuffle(float x, uint from) {
  const uint wave = fibers::current / 32;
  fibers::slots[wave][fibers::current % 32] = x;
  fibers::meet(fibers::waves[wave], 32);
  const float result = fibers::slots[wave][from];
  fibers::meet(fibers::waves[wave], 32);
  return result;
}
template <class F>
float exchange_lanes(float x, uint n, F f) {
  const uint wave = fibers::current / 32, lane = fibers::current % 32;
  fibers::slots[wave][lane] = x;
  fibers::meet(fibers::waves[wave], 32);
  float result = fibers::slots[wave][lane / n * n];
  for (uint i = 1; i < n; i++) result = f(result, fibers::slots[wave][lane / n * n + i]);
  fibers::meet(fibers::waves[wave], 32);
  return result;
}
inline float lanes_sum(float x, uint n) {
  return exchange_lanes(x, n, [](float a, float b) { return a + b; });
}
inline float lanes_max(float x, uint n) {
  return exchange_lanes(x, n, [](float a, float b) { return a > b ? a : b; });
}
