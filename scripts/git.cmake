# Run at every build: writes the commit of SOURCE into HEADER, which changes only with it.
execute_process(COMMAND git rev-parse --short=12 HEAD WORKING_DIRECTORY ${SOURCE}
  OUTPUT_VARIABLE hash OUTPUT_STRIP_TRAILING_WHITESPACE ERROR_QUIET RESULT_VARIABLE failed)
execute_process(COMMAND git status --porcelain WORKING_DIRECTORY ${SOURCE} OUTPUT_VARIABLE changes ERROR_QUIET)
if(failed)
  set(hash unknown)
  set(dirty unknown)
elseif(changes)
  set(dirty yes)
else()
  set(dirty no)
endif()
file(CONFIGURE OUTPUT ${HEADER} CONTENT "#define MMB_GIT_HASH \"${hash}\"\n#define MMB_GIT_DIRTY \"${dirty}\"\n")
