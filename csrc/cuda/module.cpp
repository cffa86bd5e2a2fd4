// The extension module of the CUDA kernels. Loading it registers them; the objects in it have no Python names.
#include <Python.h>

static PyModuleDef definition = {PyModuleDef_HEAD_INIT, "_C_cuda", "Compiled CUDA kernels.", -1, nullptr};

PyMODINIT_FUNC PyInit__C_cuda(void) { return PyModule_Create(&definition); }
