#include "dots.h"
