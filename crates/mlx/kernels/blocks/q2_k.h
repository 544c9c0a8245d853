#define BLOCK 256
#define WORDS 42
#define EIGHT \
  const uint scale = BYTE(o / 2), from = 16 + 32 * (o / 16) + 8 * (o % 4), shift = 2 * (o % 16 / 4); \
  const float d = HALF(80) * float(scale & 15), least = HALF(82) * float(scale >> 4); \
  for (uint i = 0; i < 8; i++) eight[i] = d * float(BYTE(from + i) >> shift & 3) - least;
