mock_provider "aws" {
  source = "../mocks"
}

variables {
  hub_role_arns = ["arn:aws:iam::999988887777:role/privnet-hub-eu-west-1-hub", "arn:aws:iam::999988887777:role/privnet-hub-eu-west-1-hub-2"]
  external_id   = "a-long-random-text-of-ours"
  regions       = ["us-west-2", "eu-west-1"]
}

run "the_hubs_alone_may_have_the_role" {
  assert {
    condition     = join(" ", jsondecode(aws_iam_role.this.assume_role_policy).Statement[0].Principal.AWS) == join(" ", var.hub_role_arns)
    error_message = "Nobody but the hubs' roles."
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

run "somebody_may_have_it" {
  command = plan
  variables {
    hub_role_arns = []
  }
  expect_failures = [var.hub_role_arns]
}
