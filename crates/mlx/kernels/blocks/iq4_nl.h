#define BLOCK 32
#define WORDS 9
#define EIGHT \
  const float d = HALF(0); \
  for (uint i = 0; i < 8; i++) { \
    const uint code = BYTE(2 + 8 * (o % 2) + i) >> 4 * (o / 2) & 15; \
    eight[i] = d * SIGNED(code); \
  }
