// Reads launches, runs them, writes their outputs. Formats in kernel/source.rs. A target's driver says before what an
// `Array` of it is (made of bytes, its `data` for kernels, its `bytes` back), how to RUN a kernel, and to `measure` a launch.
#include <cstdint>
#include <cstdio>
#include <cstdlib>
struct Launch {
  uint instance, grid[3];
  std::vector<Array> inputs, outputs;
  template <class T>
  const T* input(int i) { return reinterpret_cast<const T*>(inputs[i].data()); }
  template <class T>
  T* output(int i) { return reinterpret_cast<T*>(outputs[i].data()); }
};
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
    std::vector<uint> written;
    const uint n_in = take<uint32_t>(in);
    for (uint i = 0; i < n_in; i++) {
      if (take<uint32_t>(in)) written.push_back(i);
      std::vector<char> bytes(take<uint64_t>(in));
      if (std::fread(bytes.data(), 1, bytes.size(), in) != bytes.size()) return 2;
      l.inputs.push_back(Array(bytes));
    }
    // What a kernel leaves out is no sensible number.
    for (uint i = take<uint32_t>(in); i > 0; i--) {
      l.outputs.push_back(Array(std::vector<char>(take<uint64_t>(in), 0x7f)));
    }
    measure(l, launch);
    const auto write = [&](const Array& array) {
      const std::vector<char> bytes = array.bytes();
      std::fwrite(bytes.data(), 1, bytes.size(), out);
    };
    for (const Array& output : l.outputs) write(output);
    for (uint i : written) write(l.inputs[i]);
  }
  return std::fclose(out) == 0 ? 0 : 5;
}
