// Prints the microseconds of each launch, the median of 21 after one, each after 256 MiB were written so that nothing is
// left in the cache.
#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <utility>
#include <vector>
inline void must(cudaError_t error) {
  if (error == cudaSuccess) return;
  std::fprintf(stderr, "%s\n", cudaGetErrorString(error));
  std::exit(6);
}
class Array {
 public:
  explicit Array(const std::vector<char>& bytes) : n(bytes.size()) {
    must(cudaMalloc(&at, n));
    must(cudaMemcpy(at, bytes.data(), n, cudaMemcpyHostToDevice));
  }
  Array(Array&& other) : at(std::exchange(other.at, nullptr)), n(other.n) {}
  ~Array() { must(cudaFree(at)); }
  char* data() { return at; }
  std::vector<char> bytes() const {
    std::vector<char> all(n);
    must(cudaMemcpy(all.data(), at, n, cudaMemcpyDeviceToHost));
    return all;
  }

 private:
  char* at = nullptr;
  size_t n;
};
#define RUN(kernel, n_thread, ...)                                                     \
  {                                                                                    \
    std::vector<float> times;                                                          \
    cudaEvent_t from, to;                                                              \
    char* other;                                                                       \
    must(cudaMalloc(&other, 256 << 20));                                               \
    must(cudaEventCreate(&from));                                                      \
    must(cudaEventCreate(&to));                                                        \
    for (int i = 0; i < 22; i++) {                                                     \
      must(cudaMemset(other, i, 256 << 20));                                           \
      must(cudaEventRecord(from));                                                     \
      kernel<<<dim3(l.grid[0], l.grid[1], l.grid[2]), n_thread>>>(__VA_ARGS__);        \
      must(cudaGetLastError());                                                        \
      must(cudaEventRecord(to));                                                       \
      must(cudaEventSynchronize(to));                                                  \
      float ms;                                                                        \
      must(cudaEventElapsedTime(&ms, from, to));                                       \
      if (i > 0) times.push_back(ms);                                                  \
    }                                                                                  \
    must(cudaFree(other));                                                             \
    std::sort(times.begin(), times.end());                                             \
    std::printf(#kernel " grid %u %u %u: %.2f us\n", l.grid[0], l.grid[1], l.grid[2], \
                1000 * times[times.size() / 2]);                                       \
  }
