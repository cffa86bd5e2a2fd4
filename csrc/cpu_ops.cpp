// The extension module: registers the CPU form of every operation and chooses the instruction set, once, at load.
// Schemas, shape rules and gradients stand in Python (kernels/); numbers are computed in csrc/core.

#include <Python.h>

#include <cstdlib>
#include <string>

#include "glue/attention.h"
#include "glue/depthwise_norm.h"
#include "glue/gated.h"
#include "glue/mixed_sum.h"
#include "glue/norm.h"
#include "glue/products.h"
#include "glue/residual.h"
#include "glue/saliency.h"
#include "glue/scan.h"
#include "glue/spectrum.h"
#include "glue/steps.h"
#include "glue/wavelet.h"

namespace foreblocks {

static const Table* chosen = &table_plain();

const Table& active() { return *chosen; }

// Each level is asked for by its own name: exactly the features that its code was compiled for.
static const Table* supported(const std::string& isa) {
  if (isa == "plain") return &table_plain();
#if defined(FOREBLOCKS_X86_LEVELS)
  __builtin_cpu_init();
  if (isa == "v3" && __builtin_cpu_supports("x86-64-v3")) return &table_v3();
  if (isa == "v4" && __builtin_cpu_supports("x86-64-v4")) return &table_v4();
#endif
  return nullptr;
}

static const Table* best() {
  for (const char* isa : {"v4", "v3"})
    if (const Table* table = supported(isa)) return table;
  return &table_plain();
}

}  // namespace foreblocks

STABLE_TORCH_LIBRARY_IMPL(foreblocks_darts, CPU, m) {
  m.impl("mixed_sum", TORCH_BOX(&foreblocks::mixed_sum_forward));
  m.impl("mixed_sum_backward", TORCH_BOX(&foreblocks::mixed_sum_backward));
  m.impl("gated_act", TORCH_BOX(&foreblocks::gated_forward));
  m.impl("gated_act_backward", TORCH_BOX(&foreblocks::gated_backward));
  m.impl("norm_act", TORCH_BOX(&foreblocks::norm_act_forward));
  m.impl("norm_act_backward", TORCH_BOX(&foreblocks::norm_act_backward));
  m.impl("depthwise_conv1d", TORCH_BOX(&foreblocks::depthwise_forward));
  m.impl("depthwise_conv1d_backward", TORCH_BOX(&foreblocks::depthwise_backward));
  m.impl("depthwise_norm", TORCH_BOX(&foreblocks::depthwise_norm_forward));
  m.impl("depthwise_norm_backward", TORCH_BOX(&foreblocks::depthwise_norm_backward));
  m.impl("moving_average", TORCH_BOX(&foreblocks::average_forward));
  m.impl("moving_average_backward", TORCH_BOX(&foreblocks::average_backward));
  m.impl("wavelet_split", TORCH_BOX(&foreblocks::wavelet_split));
  m.impl("wavelet_merge", TORCH_BOX(&foreblocks::wavelet_merge));
  m.impl("softmax_attention", TORCH_BOX(&foreblocks::attention_forward));
  m.impl("softmax_attention_backward", TORCH_BOX(&foreblocks::attention_backward));
  m.impl("saliency", TORCH_BOX(&foreblocks::saliency));
  m.impl("time_linear", TORCH_BOX(&foreblocks::time_linear_forward));
  m.impl("time_linear_backward", TORCH_BOX(&foreblocks::time_linear_backward));
  m.impl("step_conv1d", TORCH_BOX(&foreblocks::step_conv_forward));
  m.impl("step_conv1d_backward", TORCH_BOX(&foreblocks::step_conv_backward));
  m.impl("residual_convs", TORCH_BOX(&foreblocks::residual_forward));
  m.impl("residual_convs_backward", TORCH_BOX(&foreblocks::residual_backward));
  m.impl("spectral_map", TORCH_BOX(&foreblocks::spectrum_forward));
  m.impl("spectral_map_backward", TORCH_BOX(&foreblocks::spectrum_backward));
  m.impl("selective_scan", TORCH_BOX(&foreblocks::scan_forward));
  m.impl("selective_scan_backward", TORCH_BOX(&foreblocks::scan_backward));
}

PyMODINIT_FUNC PyInit__C(void) {
  const char* wish = std::getenv("FOREBLOCKS_DARTS_ISA");
  const foreblocks::Table* table =
      wish == nullptr || *wish == '\0' ? foreblocks::best() : foreblocks::supported(wish);
  if (table == nullptr) {
    PyErr_Format(
        PyExc_ValueError,
        "FOREBLOCKS_DARTS_ISA=%s is not allowed: choose one of plain, v3, v4 that this processor and this build have.",
        wish);
    return nullptr;
  }
  foreblocks::chosen = table;
  static PyModuleDef definition = {PyModuleDef_HEAD_INIT, "_C", nullptr, -1, nullptr, nullptr, nullptr, nullptr, nullptr};
  PyObject* module = PyModule_Create(&definition);
  if (module != nullptr && PyModule_AddStringConstant(module, "isa", foreblocks::chosen->isa) != 0) {
    Py_DECREF(module);
    return nullptr;
  }
  return module;
}
