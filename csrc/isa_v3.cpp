// x86-64-v3: AVX2 and FMA.
#include "core/table.h"

#if defined(FOREBLOCKS_X86_LEVELS)
#define VECTOR_BYTES 32
#define ISA_NAME "v3"
#pragma GCC push_options
#pragma GCC target("arch=x86-64-v3")
namespace foreblocks {
namespace v3 {
#include "core/isa_body.h"
}  // namespace v3
}  // namespace foreblocks
#pragma GCC pop_options

namespace foreblocks {
const Table& table_v3() { return v3::kTable; }
}  // namespace foreblocks
#endif
