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
typedef unsigned int uint;
typedef signed char i8;
typedef unsigned char u8;
typedef unsigned short u16;
using std::exp;
using std::max;
using std::min;
using std::tanh;

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

struct half {
  uint16_t bits;
  operator float() const { return half_bits(bits); }
};

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
}  // namespace fibers

inline float simd_sum(float x) {
  return fibers::exchange(x, [](float a, float b) { return a + b; });
}
inline float simd_max(float x) {
  return fibers::exchange(x, [](float a, float b) { return a > b ? a : b; });
}
