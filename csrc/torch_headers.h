// What setup.py compiles once and puts in front of every file. A file still includes what it uses.

#include <torch/csrc/autograd/generated/Functions.h>
#include <torch/library.h>
