#define BLOCK 256
#define WORDS 25
#define EIGHT \
  const uint high = uint(w[at + 17 + o / 4]), code = BYTE(2 + o) | (high >> 3 * (o % 4) & 7) << 8; \
  const float d = HALF(0) * float(1 + 2 * (high >> 12 & 7)), shift = high >> 15 == 1 ? -0.125f : 0.125f; \
  for (uint i = 0; i < 8; i++) eight[i] = d * (SIGNED(8 * code + i) + shift);
