#define BLOCK 256
#define WORDS 33
#define EIGHT \
  const uint from = 2 + 8 * (o / 4), code = BYTE(from + o % 4), word = WORD(from + 4), seven = word >> 7 * (o % 4) & 127; \
  const float d = HALF(0) * (0.5f + float(word >> 28)) * 0.25f; \
  SPREAD(d, codes[2 * code], codes[2 * code + 1], EVEN(seven))
