// What a kernel's text may use besides plain arithmetic, for Metal. A kernel is a function body over named arrays; the
// lines before it (see kernel::source) name its group, its lane and its wave.
//   SHARED(T, name, n)  an array of the threadgroup      BARRIER()  all its threads meet
//   simd_sum, simd_max  over the 32 lanes of a wave      half_bits  an f16 from its 16 bits
#define SHARED(T, name, n) threadgroup T name[n]
#define BARRIER() threadgroup_barrier(mem_flags::mem_threadgroup)
typedef char i8;
typedef uchar u8;
typedef ushort u16;
inline float half_bits(uint bits) { return float(as_type<half>(ushort(bits))); }
