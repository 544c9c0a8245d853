#define BLOCK 256
#define WORDS 37
#define EIGHT \
  const uint both = w[at + 1 + o], code = both & 511, seven = both >> 9; \
  const float d = HALF(0) * (0.5f + float(BYTE(66 + o / 4) >> 4 * (o / 2 % 2) & 15)) * 0.25f; \
  SPREAD(d, codes[2 * code], codes[2 * code + 1], EVEN(seven))
