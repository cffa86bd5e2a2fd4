// Every processor: the baseline of the compiler's target.
#include "core/table.h"

#define VECTOR_BYTES 16
#define ISA_NAME "plain"
namespace foreblocks {
namespace plain {
#include "core/isa_body.h"
}  // namespace plain

const Table& table_plain() { return plain::kTable; }

}  // namespace foreblocks
