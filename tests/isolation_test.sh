#!/bin/sh
# isolation_test.sh NM OBJECT...: an object compiled for an instruction-set level defines its op's entry points and no other
# symbol that the linker can see. A weak symbol (an inline function of a library) could become the whole program's copy and
# stop an older CPU with an illegal instruction.
nm=$1
shift
[ $# -gt 0 ] || { echo "isolation_test: no objects"; exit 1; }
leaks=$(for object; do
  level=${object%.dir/*} level=${level##*/mmb_}   # .../mmb_avx2.dir/kernels/linear/simd.cpp.o
  op=${object%/*} op=${op##*/}
  symbols=$("$nm" -C --defined-only --extern-only "$object") || echo "$object: nm failed"
  echo "$symbols" | grep -q " T mmb::${level}::$op" || echo "$object: no entry point mmb::${level}::$op"
  echo "$symbols" | grep -v " T mmb::${level}::${op}[a-z0-9_]*(" | sed "s|^|$level/$op: |"
done)
[ -z "$leaks" ] || { echo "$leaks"; exit 1; }
echo "$# objects define their entry points only"
