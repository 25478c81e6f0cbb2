mock_provider "aws" {
  source = "../mocks"
}

variables {
  hub_role_arn = "arn:aws:iam::999988887777:role/privnet-hub-eu-west-1-hub"
  external_id  = "a-long-random-text-of-ours"
  regions      = ["us-west-2", "eu-west-1"]
}

run "the_hub_alone_may_have_the_role" {
  assert {
    condition     = jsondecode(aws_iam_role.this.assume_role_policy).Statement[0].Principal.AWS == var.hub_role_arn
    error_message = "Nobody but the hub's role."
  }
  assert {
    condition = (
      jsondecode(aws_iam_role.this.assume_role_policy).Statement[0].Condition.StringEquals["sts:ExternalId"] == var.external_id
    )
    error_message = "And it has to know the external id."
  }
  assert {
    condition     = join(" ", keys(aws_iam_role_policy.this)) == "discovery" && output.role_arn == aws_iam_role.this.arn
    error_message = "One policy."
  }
}

run "an_external_id_is_long" {
  command = plan
  variables {
    external_id = "short"
  }
  expect_failures = [var.external_id]
}
