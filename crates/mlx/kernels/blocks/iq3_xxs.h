#define BLOCK 256
#define WORDS 49
#define EIGHT \
  const uint word = WORD(66 + 4 * (o / 4)), seven = word >> 7 * (o % 4) & 127; \
  const float d = HALF(0) * (0.5f + float(word >> 28)) * 0.5f; \
  SPREAD(d, codes[BYTE(2 + 2 * o)], codes[BYTE(3 + 2 * o)], EVEN(seven))
