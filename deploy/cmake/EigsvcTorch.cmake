# Finds LibTorch, which comes from the torch package of EIGSVC_PYTHON: EIGSVC_TORCH_DIR, EIGSVC_TORCH_VERSION. And beside it
# the nvcc of its CUDA, where the set-up has installed NVIDIA's wheels of it: CMAKE_CUDA_COMPILER.
# Without EIGSVC_PYTHON: what `make setup` made, else the system's.
set(torch_python "${EIGSVC_PYTHON}")
if(NOT torch_python)
  find_program(EIGSVC_DEFAULT_PYTHON python3 REQUIRED
    HINTS $ENV{EIGSVC_CACHE}/torch-2.13.0/bin $ENV{HOME}/.cache/eigsvc/torch-2.13.0/bin)
  set(torch_python ${EIGSVC_DEFAULT_PYTHON})
endif()
execute_process(
  COMMAND ${torch_python} -c "import importlib.metadata, importlib.util; print(importlib.util.find_spec('torch').submodule_search_locations[0]); print(importlib.metadata.version('torch'))"
  OUTPUT_VARIABLE torch_probe RESULT_VARIABLE torch_result ERROR_QUIET OUTPUT_STRIP_TRAILING_WHITESPACE)
if(NOT torch_result EQUAL 0)
  message(FATAL_ERROR "${torch_python} has no torch package: run `make setup`, or pass -DEIGSVC_PYTHON=/path/to/python3")
endif()
string(REPLACE "\n" ";" torch_probe "${torch_probe}")
list(GET torch_probe 0 EIGSVC_TORCH_DIR)
list(GET torch_probe 1 EIGSVC_TORCH_VERSION)
message(STATUS "LibTorch ${EIGSVC_TORCH_VERSION}")

# A compiler that is named comes first; one on the PATH may be of another CUDA than LibTorch's.
if(NOT DEFINED CMAKE_CUDA_COMPILER AND NOT DEFINED ENV{CUDACXX})
  file(GLOB torch_nvcc ${EIGSVC_TORCH_DIR}/../nvidia/cu*/bin/nvcc)
  if(torch_nvcc)
    cmake_path(NORMAL_PATH torch_nvcc)
    set(CMAKE_CUDA_COMPILER ${torch_nvcc} CACHE FILEPATH "nvcc of LibTorch's CUDA")
  endif()
endif()
