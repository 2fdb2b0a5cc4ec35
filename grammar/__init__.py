"""The syntax of .nn files; nn.lark is its only definition."""
