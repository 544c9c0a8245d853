// Runs a kernel's groups one after the other.
class Array {
 public:
  explicit Array(std::vector<char> bytes) : all(std::move(bytes)) {}
  char* data() { return all.data(); }
  std::vector<char> bytes() const { return all; }

 private:
  std::vector<char> all;
};
#define RUN(kernel, n_thread, ...)                     \
  for (uint z = 0; z < l.grid[2]; z++)                 \
    for (uint y = 0; y < l.grid[1]; y++)               \
      for (uint x = 0; x < l.grid[0]; x++)             \
        fibers::run(n_thread, [&](uint thread) { kernel(x, y, z, thread, __VA_ARGS__); })
template <class Launch>
void measure(Launch& l, void (*launch)(Launch&)) {
  launch(l);
}
