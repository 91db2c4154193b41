#include "dot_int8.h"
