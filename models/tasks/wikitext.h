// WikiText-103 and WikiText-2 (Merity et al., arXiv 1609.07843): predict each next token of Wikipedia
// articles, in the tokens of GPT-2, of a Hugging Face or SentencePiece tokenizer whose file lies beside the
// text, or in whole words. Train blocks are served in an order drawn from the seed, test blocks in the text's
// order.
#pragma once

#include "models/tasks/task.h"

namespace eigsvc {

TaskEntry WikiText103Entry();  // the entries of the registry
TaskEntry WikiText2Entry();

}  // namespace eigsvc
