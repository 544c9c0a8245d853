#define BLOCK 256
#define WORDS 28
#define EIGHT \
  const uint nibble = BYTE(32 + o / 2) >> 4 * (o % 2) & 15, code = BYTE(o) | (nibble & 7) << 8; \
  const uint scale = uint(w[at + 24 + o / 8]) >> 3 * (o / 2 % 4) & 7; \
  const uint low = uint(w[at + 24]) >> 12 | uint(w[at + 25]) >> 12 << 4, high = uint(w[at + 26]) >> 12 | uint(w[at + 27]) >> 12 << 4; \
  const float d = half_bits(low | high << 8) * float(1 + 2 * scale), shift = nibble >> 3 == 1 ? -0.125f : 0.125f; \
  for (uint i = 0; i < 8; i++) eight[i] = d * (SIGNED(8 * code + i) + shift);
