// Reads launches, runs them one group after the other, writes their outputs. Formats in kernel/source.rs.
#include <cstdio>
#include <cstdlib>
struct Launch {
  uint instance, grid[3];
  std::vector<std::vector<char>> inputs, outputs;
  template <class T>
  const T* input(int i) { return reinterpret_cast<const T*>(inputs[i].data()); }
  template <class T>
  T* output(int i) { return reinterpret_cast<T*>(outputs[i].data()); }
};
#define RUN(kernel, n_thread, ...)                     \
  for (uint z = 0; z < l.grid[2]; z++)                 \
    for (uint y = 0; y < l.grid[1]; y++)               \
      for (uint x = 0; x < l.grid[0]; x++)             \
        fibers::run(n_thread, [&](uint thread) { kernel(x, y, z, thread, __VA_ARGS__); })
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
    std::vector<size_t> written;
    for (auto& input : l.inputs) {
      if (take<uint32_t>(in)) written.push_back(&input - &l.inputs[0]);
      input.resize(take<uint64_t>(in));
      if (std::fread(input.data(), 1, input.size(), in) != input.size()) return 2;
    }
    l.outputs.resize(take<uint32_t>(in));
    for (auto& output : l.outputs) output.resize(take<uint64_t>(in), 0x7f);
    launch(l);
    for (auto& output : l.outputs) std::fwrite(output.data(), 1, output.size(), out);
    for (size_t i : written) std::fwrite(l.inputs[i].data(), 1, l.inputs[i].size(), out);
  }
  return std::fclose(out) == 0 ? 0 : 5;
}
