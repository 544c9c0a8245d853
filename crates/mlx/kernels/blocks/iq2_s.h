#define BLOCK 256
#define WORDS 41
#define EIGHT \
  const uint code = BYTE(2 + o) | (BYTE(66 + o / 4) >> 2 * (o % 4) & 3) << 8, signs = BYTE(34 + o); \
  const float d = HALF(0) * (0.5f + float(BYTE(74 + o / 4) >> 4 * (o / 2 % 2) & 15)) * 0.25f; \
  SPREAD(d, codes[2 * code], codes[2 * code + 1], signs)
