// driver.host.h for CUDA; prints the microseconds of each launch, the median of 21 after one, each after 256 MiB were
// written so that nothing is left in the cache.
#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <utility>
#include <vector>
inline void must(cudaError_t error) {
  if (error == cudaSuccess) return;
  std::fprintf(stderr, "%s\n", cudaGetErrorString(error));
  std::exit(6);
}
struct Launch {
  uint instance, grid[3];
  std::vector<char*> inputs, outputs;
  template <class T>
  const T* input(int i) { return reinterpret_cast<const T*>(inputs[i]); }
  template <class T>
  T* output(int i) { return reinterpret_cast<T*>(outputs[i]); }
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
void launch(Launch& l);
template <class T>
T take(FILE* file) {
  T value;
  if (std::fread(&value, sizeof value, 1, file) != 1) std::exit(2);
  return value;
}
int main(int argc, char** argv) {
  if (argc != 3) return 3;
  FILE *in = std::fopen(argv[1], "rb"), *out = std::fopen(argv[2], "wb");
  if (!in || !out) return 4;
  for (uint n = take<uint32_t>(in); n > 0; n--) {
    Launch l;
    l.instance = take<uint32_t>(in);
    for (uint& size : l.grid) size = take<uint32_t>(in);
    l.inputs.resize(take<uint32_t>(in));
    std::vector<std::pair<char*, size_t>> results;
    std::vector<std::pair<size_t, size_t>> written;
    for (auto& input : l.inputs) {
      const bool kept = take<uint32_t>(in);
      std::vector<char> bytes(take<uint64_t>(in));
      if (kept) written.push_back({&input - &l.inputs[0], bytes.size()});
      if (std::fread(bytes.data(), 1, bytes.size(), in) != bytes.size()) return 2;
      must(cudaMalloc(&input, bytes.size()));
      must(cudaMemcpy(input, bytes.data(), bytes.size(), cudaMemcpyHostToDevice));
    }
    l.outputs.resize(take<uint32_t>(in));
    for (auto& output : l.outputs) {
      const size_t size = take<uint64_t>(in);
      must(cudaMalloc(&output, size));
      must(cudaMemset(output, 0x7f, size));
      results.push_back({output, size});
    }
    for (auto [i, size] : written) results.push_back({l.inputs[i], size});
    launch(l);
    for (auto [from, size] : results) {
      std::vector<char> bytes(size);
      must(cudaMemcpy(bytes.data(), from, size, cudaMemcpyDeviceToHost));
      std::fwrite(bytes.data(), 1, bytes.size(), out);
    }
    for (char* input : l.inputs) must(cudaFree(input));
    for (char* output : l.outputs) must(cudaFree(output));
  }
  return std::fclose(out) == 0 ? 0 : 5;
}
