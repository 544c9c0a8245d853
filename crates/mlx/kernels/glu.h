// `value` as a gate of what it lets through: GLU 1: silu(value) * other, 2: gelu(value) * other; else it stays.
#define GATED(value, other) \
  if (GLU == 1) value *= other / (1.0f + exp(-value)); \
  if (GLU == 2) value *= other * 0.5f * (1.0f + tanh(0.7978845608f * (value + 0.044715f * value * value * value)))
