# Every package this project uses, found once. LibTorch, which EigsvcTorch.cmake found, becomes imported targets of our own:
# find_package(Torch) fails where the wheel is a CUDA build and no CUDA toolkit is installed, and pulls flags into every target
# where it works.
find_package(Threads REQUIRED)
find_package(absl REQUIRED)
find_package(OpenSSL REQUIRED COMPONENTS Crypto)
find_package(ZLIB REQUIRED)
find_package(LibArchive REQUIRED)
find_package(ICU REQUIRED COMPONENTS i18n uc)
find_path(EIGSVC_JSON_INCLUDE nlohmann/json.hpp REQUIRED)

# A build on another prefix (Debian packages unpacked beside the system) hands its headers over by CPATH;
# as explicit include paths they would come before the compiler's own.
function(eigsvc_header_library library)
  string(TOUPPER ${library} upper)
  add_library(eigsvc_${library} INTERFACE)
  if(NOT "${EIGSVC_${upper}_INCLUDE}" STREQUAL "/usr/include")
    target_include_directories(eigsvc_${library} SYSTEM INTERFACE ${EIGSVC_${upper}_INCLUDE})
  endif()
endfunction()
eigsvc_header_library(json)
find_package(PNG REQUIRED)
find_library(EIGSVC_SECCOMP seccomp REQUIRED)
find_package(Protobuf REQUIRED)
find_package(gRPC REQUIRED)
find_package(prometheus-cpp REQUIRED COMPONENTS core)
find_package(spdlog REQUIRED)
find_program(EIGSVC_GRPC_PLUGIN grpc_cpp_plugin REQUIRED)
find_path(EIGSVC_CLI11_INCLUDE CLI/CLI.hpp REQUIRED)
find_path(EIGSVC_BEAST_INCLUDE boost/beast/core.hpp REQUIRED)
eigsvc_header_library(cli11)
eigsvc_header_library(beast)

if(EIGSVC_FUZZ)
  return()  # the rooms that parse untrusted bytes need no LibTorch
endif()
add_library(eigsvc_torch INTERFACE)
# The wheel's include folder also holds copies of protobuf and fmt, other versions than ours, which a file that
# includes both would find first. Only LibTorch's own folders are shown.
set(torch_include ${CMAKE_BINARY_DIR}/libtorch-include)
file(MAKE_DIRECTORY ${torch_include})
foreach(folder ATen c10 torch)
  file(CREATE_LINK ${EIGSVC_TORCH_DIR}/include/${folder} ${torch_include}/${folder} SYMBOLIC)
endforeach()
target_include_directories(eigsvc_torch SYSTEM INTERFACE ${torch_include})
target_compile_definitions(eigsvc_torch INTERFACE AT_PER_OPERATOR_HEADERS)
foreach(library c10 torch_cpu)
  add_library(eigsvc_${library} SHARED IMPORTED)
  set_target_properties(eigsvc_${library} PROPERTIES IMPORTED_LOCATION ${EIGSVC_TORCH_DIR}/lib/lib${library}.so)
  target_link_libraries(eigsvc_torch INTERFACE eigsvc_${library})
endforeach()
# Nothing of ours names a symbol of the CUDA half, so the linker would drop it and with it the device.
set(EIGSVC_TORCH_CUDA OFF)
if(EXISTS ${EIGSVC_TORCH_DIR}/lib/libtorch_cuda.so)
  set(EIGSVC_TORCH_CUDA ON)
  target_link_options(eigsvc_torch INTERFACE
    "LINKER:--push-state,--no-as-needed,${EIGSVC_TORCH_DIR}/lib/libtorch.so,--pop-state"
    "LINKER:--allow-shlib-undefined")
endif()
# LibTorch's and gRPC's libraries share libstdc++ with us. A compiler whose libstdc++.so is missing (or a link to
# nothing) takes the static one without a word: a program then has two of them, whose locales, streams and memory are not
# each other's. Naming the shared one first is not enough: what else is on the line still pulls in parts of the other.
execute_process(COMMAND ${CMAKE_CXX_COMPILER} -print-file-name=libstdc++.so
  OUTPUT_VARIABLE shared_runtime OUTPUT_STRIP_TRAILING_WHITESPACE)
if(NOT EXISTS "${shared_runtime}")
  find_library(EIGSVC_LIBSTDCXX NAMES libstdc++.so.6 REQUIRED)
  message(STATUS "this compiler has no libstdc++.so: linking ${EIGSVC_LIBSTDCXX}")
  add_link_options(-nostdlib++ "LINKER:--push-state,--no-as-needed,${EIGSVC_LIBSTDCXX},-lm,--pop-state")  # the option drops libm, too
endif()
target_link_options(eigsvc_torch INTERFACE "LINKER:-rpath,${EIGSVC_TORCH_DIR}/lib")
